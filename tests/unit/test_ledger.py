import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from lmt2.errors import StorageError
from lmt2.events import Document, Lesson
from lmt2.ledger import (
    ControlRow,
    DocumentRow,
    Ledger,
    LessonRow,
    OutboxRow,
    PromotionRow,
    Row,
    VersionRow,
    count_by_state,
    desired_version,
    is_paused,
    lessons_of,
    owe,
    owed,
)
from lmt2.transport.base import Outgoing

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def document_row(number: int, **changes: Any) -> DocumentRow:
    document = Document(id=f"d-{number}", text=f"Text {number}.")
    fields: dict[str, Any] = {
        "id": document.id,
        "event_key": f"feed|{number}",
        "content_hash": document.content_hash,
        "place": f"lmt2.documents[0]@{number}",
        "payload": document.model_dump(mode="json"),
        "state": "pending",
        "event_time": NOON,
    }
    return DocumentRow(**fields | changes)


def test_the_migrated_schema_is_the_one_of_the_models(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Row.metadata) == []


def test_migrating_again_keeps_what_is_there(ledger: Ledger) -> None:
    with ledger.begin() as session:
        session.add(document_row(1))
    ledger.migrate()
    with ledger.begin() as session:
        assert count_by_state(session) == {"pending": 1}


def test_several_processes_may_migrate_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    program = "import sys; from lmt2.ledger import Ledger; Ledger(sys.argv[1]).migrate()"
    processes = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]


def test_tables_of_a_newer_release_are_refused(ledger: Ledger) -> None:
    with ledger.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="newer release"):
        ledger.migrate()


@pytest.mark.parametrize("same", ["id", "event_key", "content_hash"])
def test_a_document_is_kept_once(ledger: Ledger, same: str) -> None:
    first, second = document_row(1), document_row(2)
    setattr(second, same, getattr(first, same))
    with ledger.begin() as session:
        session.add(first)
    with pytest.raises(IntegrityError), ledger.begin() as session:
        session.add_all([OutboxRow(stage="consumer", topic="topic", value=b"value", headers={}), second])
    with ledger.begin() as session:
        assert count_by_state(session) == {"pending": 1}
        assert owed(session, "consumer") == [], "a transaction that fails leaves nothing"


def test_a_decision_promotes_at_most_once(ledger: Ledger) -> None:
    with ledger.begin() as session:
        session.add(VersionRow(id="v-1", state="accepted", manifest={}))
        session.flush()
        session.add(PromotionRow(version_id="v-1", cause="accepted", decision="v-1"))
    with pytest.raises(IntegrityError), ledger.begin() as session:
        session.add(PromotionRow(version_id="v-1", cause="accepted", decision="v-1"))


def test_what_points_nowhere_is_refused(ledger: Ledger) -> None:
    with pytest.raises(IntegrityError), ledger.begin() as session:
        session.add(PromotionRow(version_id="never made", cause="rollback"))


def test_the_newest_promotion_is_desired(ledger: Ledger) -> None:
    with ledger.begin() as session:
        assert desired_version(session) is None
    for name, cause in [("v-1", "accepted"), ("v-2", "accepted"), ("v-1", "rollback")]:
        with ledger.begin() as session:
            session.merge(VersionRow(id=name, state="accepted", manifest={}))
            session.flush()
            session.add(PromotionRow(version_id=name, cause=cause))
        with ledger.begin() as session:
            assert desired_version(session) == name


def test_the_outbox_gives_back_what_a_stage_owes_in_order(ledger: Ledger) -> None:
    all_bytes = bytes(range(256))
    records = [
        Outgoing("one", all_bytes, all_bytes, {"all": all_bytes, "empty": b""}),
        Outgoing("two", b"", None),
        Outgoing("one", b"third", b""),
    ]
    with ledger.begin() as session:
        owe(session, "consumer", records[:2])
        owe(session, "learner", [Outgoing("other", b"value")])
        owe(session, "consumer", records[2:])
    with ledger.begin() as session:
        found = owed(session, "consumer")
        assert [record for _, record in found] == records
        session.delete(session.get_one(OutboxRow, found[0][0]))
    with ledger.begin() as session:
        assert [record for _, record in owed(session, "consumer")] == records[1:]


def test_times_are_utc_when_read(ledger: Ledger) -> None:
    in_paris = NOON.astimezone(timezone(timedelta(hours=1)))
    with ledger.begin() as session:
        session.add_all([document_row(1), document_row(2, event_time=in_paris)])
    with ledger.begin() as session:
        for number in (1, 2):
            assert session.get_one(DocumentRow, f"d-{number}").event_time == NOON


def test_lessons_and_probes_are_kept_apart(ledger: Ledger) -> None:
    lessons = [Lesson(question=f"Q{n}?", answer="A", kind="direct", document=f"d-{n % 2}") for n in range(4)]
    with ledger.begin() as session:
        session.add_all([document_row(0), document_row(1)])
        session.flush()
        for number, lesson in enumerate(lessons):
            session.add(
                LessonRow(document_id=lesson.document, payload=lesson.model_dump(mode="json"), held_out=number > 1)
            )
    with ledger.begin() as session:
        assert lessons_of(session, ["d-0"], held_out=False) == [lessons[0]]
        assert lessons_of(session, ["d-0", "d-1"], held_out=True) == lessons[2:]
        assert lessons_of(session, [], held_out=True) == []


def test_learning_can_be_paused(ledger: Ledger) -> None:
    for value in ("true", "false"):
        with ledger.begin() as session:
            session.merge(ControlRow(name="paused", value=value))
        with ledger.begin() as session:
            assert is_paused(session) == (value == "true")


def test_a_full_disk_is_a_storage_error_and_nothing_is_half_kept(ledger: Ledger) -> None:
    with ledger.begin() as session:
        pages = session.scalar(text("PRAGMA page_count"))
        session.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
    full = r"ledger\.db failed: .*database or disk is full; check disk space"
    with pytest.raises(StorageError, match=full), ledger.begin() as session:
        owe(session, "consumer", [Outgoing("topic", b"small"), Outgoing("topic", b"x" * 100_000)])
    with ledger.begin() as session:
        assert owed(session, "consumer") == []
        session.execute(text("PRAGMA max_page_count = 1000000"))
        owe(session, "consumer", [Outgoing("topic", b"x" * 100_000)])
    with ledger.begin() as session:
        assert len(owed(session, "consumer")) == 1


def test_a_ledger_that_can_not_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open database file; check disk space and access"):
        Ledger(f"sqlite:///{tmp_path}/missing/ledger.db").migrate()


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database " * 1000)
    with pytest.raises(StorageError, match="not a database"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db").migrate()


def test_passwords_are_not_shown() -> None:
    pytest.importorskip("psycopg")
    ledger = Ledger("postgresql+psycopg://lmt2:s3cret@127.0.0.1:1/lmt2")
    with pytest.raises(StorageError) as caught:
        ledger.migrate()
    assert "s3cret" not in str(caught.value)
