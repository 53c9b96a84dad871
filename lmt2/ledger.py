"""The ledger: what became of every document, update, version and decision, in SQL.

SQLite by default, Postgres when there are several processes. Rows are the truth: what a stage has done, what
it still owes the event log (the outbox), and which version should be served. Keys make every effect
idempotent: a record that is read twice finds its effect already there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    LargeBinary,
    String,
    TypeDecorator,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from lmt2.errors import StorageError
from lmt2.events import Document, Lesson
from lmt2.sqlite import BUSY_SECONDS, make_durable
from lmt2.transport.base import Outgoing

TERMINAL = ("learnt", "known", "shadowed", "quarantined", "rejected", "retracted")
NOT_RETRACTED = "not retracted: "  # begins the reason of a learnt document whose removal was refused
LEAVING = ("retracting", "retracted")  # no version may be made that teaches a document of these


class Moment(TypeDecorator[datetime]):
    """A time in UTC; SQLite forgets the zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Times are written in UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Times read from a database that keeps no zone are UTC."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class Row(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map: ClassVar = {datetime: Moment, dict[str, Any]: JSON, bytes: LargeBinary}


class DocumentRow(Row):
    """A document that was taken in, and its state.

    States: `requested` (an update was asked for), `released` (an operator lets it out of quarantine), `retracting` (its
    removal was asked for), and the terminal ones `learnt`, `known`, `shadowed` (it would have been learnt),
    `quarantined`, `rejected`, `retracted`.
    """

    __tablename__ = "documents"
    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    event_key: Mapped[str] = mapped_column(unique=True)
    content_hash: Mapped[str] = mapped_column(unique=True)
    place: Mapped[str]
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(default="")
    conflict: Mapped[float | None]
    event_time: Mapped[datetime]
    changed_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    @property
    def document(self) -> Document:
        """The event's data."""
        return Document.model_validate(self.payload)


class LessonRow(Row):
    """A question and answer of a document; `held_out` ones are probes, which no training may see."""

    __tablename__ = "lessons"
    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id"), index=True)
    payload: Mapped[dict[str, Any]]
    held_out: Mapped[bool]

    @property
    def lesson(self) -> Lesson:
        """The pair, as events carry it."""
        return Lesson.model_validate(self.payload)


class UpdateRow(Row):
    """A micro-update.

    States: `waiting` (for its turn: consumer/budget.py), `requested`, `dead` (it is among the dead letters), `trained`,
    `failed`, `decided`, `withdrawn` (a document was retracted).
    """

    __tablename__ = "updates"
    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(index=True)
    payload: Mapped[dict[str, Any]]
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class VersionRow(Row):
    """A version of the model: immutable, named by its content.

    States: `candidate`, `accepted`, `rejected`, `inconclusive`, `withdrawn` (its update was, before a decision).
    """

    __tablename__ = "versions"
    id: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str | None]
    update_id: Mapped[str | None] = mapped_column(unique=True)
    state: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class DecisionRow(Row):
    """One examination of a candidate by the gate; at most one a version."""

    __tablename__ = "decisions"
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    verdict: Mapped[str]
    reason: Mapped[str]
    report: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class PromotionRow(Row):
    """Desired state of serving: the newest row wins. A decision promotes at most once."""

    __tablename__ = "promotions"
    seq: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    cause: Mapped[str]
    decision: Mapped[str | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class ReplicaRow(Row):
    """What a serving replica says that it serves."""

    __tablename__ = "replicas"
    name: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[str]
    error: Mapped[str] = mapped_column(default="")
    changed_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class OutboxRow(Row):
    """A record that a stage owes the event log; written with the effect that causes it, removed when acknowledged.

    `stage` is who owes it: STAGE/MEMBER.
    """

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(index=True)
    topic: Mapped[str]
    key: Mapped[bytes | None]
    value: Mapped[bytes]
    headers: Mapped[dict[str, Any]]


class SignalRow(Row):
    """A document's drift signals; a partition's detectors are rebuilt by replaying the newest of them."""

    __tablename__ = "signals"
    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[str]
    partition: Mapped[int] = mapped_column(index=True)
    conflict: Mapped[float]
    nll: Mapped[float]
    embedding: Mapped[bytes]  # float32, of unit length


class DetectionRow(Row):
    """A drift detector's vote, and whether it made a drift by the rule."""

    __tablename__ = "detections"
    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[str]
    partition: Mapped[int]
    detector: Mapped[str]
    signal: Mapped[str]
    statistic: Mapped[float]
    delay: Mapped[int]
    is_drift: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(default=now)


class ControlRow(Row):
    """A switch that an operator sets, such as `paused`."""

    __tablename__ = "control"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Ledger:
    """Opens transactions, and answers the questions that several stages ask."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._session = sessionmaker(self.engine, expire_on_commit=False)

    def migrate(self) -> None:
        """Bring the tables up to date (alembic); safe to call from several processes one after another."""
        from lmt2.migrations import upgrade

        with _as_storage_error(self.url):
            upgrade(self.engine)

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            StorageError: the database refused (disk full, no connection). An IntegrityError passes through,
                as it is how idempotent writers learn that they come second.
        """
        with _as_storage_error(self.url), self._session.begin() as session:
            yield session

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def desired_version(session: Session) -> str | None:
    """The version that every replica should serve; none before the first promotion."""
    return session.scalar(select(PromotionRow.version_id).order_by(PromotionRow.seq.desc()).limit(1))


def owe(session: Session, stage: str, records: Sequence[Outgoing]) -> None:
    """Put records into the outbox of a stage's member, in this transaction."""
    for record in records:
        headers = {name: value.decode("latin-1") for name, value in record.headers.items()}
        session.add(OutboxRow(stage=stage, topic=record.topic, key=record.key, value=record.value, headers=headers))


def owed(session: Session, stage: str) -> list[tuple[int, Outgoing]]:
    """The outbox of a stage's member, or of all members of a stage; oldest first."""
    rows = session.scalars(select(OutboxRow).where(OutboxRow.stage.startswith(stage)).order_by(OutboxRow.id))
    return [
        (row.id, Outgoing(row.topic, row.value, row.key, {k: v.encode("latin-1") for k, v in row.headers.items()}))
        for row in rows
    ]


def lessons_of(session: Session, documents: Sequence[str], held_out: bool) -> list[Lesson]:
    """Lessons, or probes, of some documents."""
    query = select(LessonRow).where(LessonRow.document_id.in_(documents), LessonRow.held_out == held_out)
    return [row.lesson for row in session.scalars(query.order_by(LessonRow.id))]


def is_paused(session: Session) -> bool:
    """Whether an operator has paused learning."""
    row = session.get(ControlRow, "paused")
    return row is not None and row.value == "true"


def count_by_state(session: Session) -> dict[str, int]:
    """Documents by state."""
    rows = session.execute(select(DocumentRow.state, func.count()).group_by(DocumentRow.state))
    return dict(rows.all())


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        make_durable(connection)
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


@contextmanager
def _as_storage_error(url: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StorageError(
            f"the ledger at {_without_password(url)} failed: {cause}; check disk space and access"
        ) from error


def _without_password(url: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)
