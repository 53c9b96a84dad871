"""The consumer's work on one record: validate, drop repeats, structure, score, watch for drift, decide."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from consumer import budget, earlier, intake, retraction
from consumer.alike import EarlierQuestions
from consumer.banks import Banks, signal_row
from consumer.drift import Signal, Watched
from consumer.kaft import Score, score, weighted
from consumer.structuring import Report, Structured, structure
from consumer.suspicion import suspicion
from consumer.trigger import Action, Evidence, decide
from lmt2 import telemetry
from lmt2.config import Settings
from lmt2.errors import EventError
from lmt2.events import DOCUMENTS, QUARANTINE, Document, Envelope, Lesson, UpdateRequest
from lmt2.ledger import LEAVING, DetectionRow, DocumentRow, Ledger, LessonRow, Row
from lmt2.models.base import LanguageModel
from lmt2.models.encoder import Embeds
from lmt2.scoring import normalise
from lmt2.stage import Outcome, Worker
from lmt2.study.lessons import LessonWriter
from lmt2.study.passages import passages
from lmt2.study.scholar import Scholar
from lmt2.transport.base import Outgoing, Record

T = TypeVar("T")
STATES = {"learn": "requested", "shadow": "shadowed", "skip": "known", "quarantine": "quarantined"}


@dataclass(frozen=True)
class Studied:
    """All that was found out about a document.

    `before` are the updates whose shards teach what it changes, `contradicted` the share of its facts that earlier
    documents deny.
    """

    structured: Structured
    score: Score
    before: tuple[UpdateRequest, ...]
    changes: earlier.Changes
    contradicted: float


class ConsumerWorker(Worker):
    """Turns document events into update requests, or says why not."""

    name = "consumer"
    topic = DOCUMENTS

    def __init__(
        self, settings: Settings, ledger: Ledger, scholar: Scholar, probe: LanguageModel, encoder: Embeds
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._scholar = scholar
        self._writer = LessonWriter(scholar, encoder, settings.study)
        self._probe = probe
        self._encoder = encoder
        self._returning = intake.returning(settings.consumer)
        self._log = telemetry.logger(self.name)
        self._repeats = telemetry.documents_total.labels("duplicate")
        self._earlier = EarlierQuestions(encoder)
        self._drift = Banks(settings.drift, ledger)

    def work(self, record: Record) -> Outcome:
        """What the document in a record leads to; raises EventError if it can't be used."""
        document, envelope = self._read(record)
        if document.retracted:
            origin = intake.event_key(envelope), record.place
            return retraction.take(self._ledger, document.id, origin, _event_time(envelope, record))
        with self._ledger.begin() as session:
            settled = self._at_once(session, record, document, envelope)
            before = intake.earlier_row(session, document, self._returning)
        return settled or self._decided(record, document, envelope, before=before)

    def settle(self, records: Sequence[Record], session: Session) -> Iterator[Outcome | EventError]:
        """What no model needs to see: records that are no documents, repeats, and texts that plain tests keep out."""
        read = [_or_error(self._read, record) for record in records]
        documents = [found for found in read if not isinstance(found, EventError)]
        repeats = intake.repeats(session, documents, self._returning)
        for record, found in zip(records, read, strict=True):
            if isinstance(found, EventError):
                yield found
            elif settled := _or_error(self._at_once, session, record, *found, repeats):
                yield settled
            else:
                return

    def idle(self, session: Session) -> Sequence[Outgoing]:
        """The update that has waited long enough, if there is one."""
        return budget.release(session, self._settings.consumer)

    def _read(self, record: Record) -> tuple[Document, Envelope]:
        return intake.read(record, self._settings.consumer.max_text_bytes)

    def _at_once(
        self,
        session: Session,
        record: Record,
        document: Document,
        envelope: Envelope,
        repeats: Collection[tuple[str, str]] = (),
    ) -> Outcome | None:
        """What a document leads to if it is a repeat or plain tests keep it out; none if it is to be worked on."""
        if document.retracted:
            return None
        is_repeat = (intake.event_key(envelope), document.content_hash) in repeats
        if is_repeat or intake.is_repeat(session, document, envelope, self._returning):
            self._repeats.inc()
            return Outcome()
        before = intake.earlier_row(session, document, self._returning)
        suspected = None if _is_released(before) else suspicion(f"{document.title}\n{document.text}")
        return self._decided(record, document, envelope, before, suspected) if suspected else None

    def _decided(
        self,
        record: Record,
        document: Document,
        envelope: Envelope,
        before: DocumentRow | None,
        suspected: str | None = None,
    ) -> Outcome:
        studied = self._nothing() if suspected else self._study(document)
        watched, noted = self._watch(document, record.partition, studied.score)
        evidence = Evidence(
            facts=studied.structured.facts,
            suspicion=suspected,
            score=studied.score,
            contradicted=studied.contradicted,
            supersedes=bool(studied.before),
            drifted=watched.drifted,
            is_released=_is_released(before),
        )
        action = decide(evidence, self._settings.consumer)
        self._report(document, studied, action)
        row = intake.new_row(
            document,
            envelope,
            place=record.place,
            state=STATES[action.do],
            reason=action.reason,
            conflict=studied.score.conflict,
            event_time=_event_time(envelope, record),
        )
        return self._outcome(row, studied, action, record, noted)

    def _study(self, document: Document) -> Studied:
        structured = structure(document, self._writer, self._progress(document))
        lessons = [*structured.lessons, *structured.probes]
        found = score(lessons, self._probe, self._settings.consumer)
        texts = passages(document)
        maybe_older = earlier.maybe_older(document)
        with self._ledger.begin() as session:
            alike = self._earlier.alike(session, lessons)
            staying = select(DocumentRow).where(maybe_older, DocumentRow.state.not_in(LEAVING))
            olds = {row.id: row.document for row in session.scalars(staying)}
            news_to = {name for name, old in olds.items() if earlier.is_news(document, old)}
            updates = {u.id: u for name in sorted(news_to) if (u := earlier.present_update(session, name))}
        taught = [x for update in updates.values() for x in (*update.lessons, *update.probes)]
        changes = earlier.changes(taught, texts, self._scholar)
        changed = {name for name, _ in changes} | {document.supersedes}
        before = tuple(u for u in updates.values() if changed & {d.id for d in u.documents})
        others = [pair for pair in alike if pair.old.document not in {*news_to, document.id}]
        denied = earlier.contradictions(others, texts, self._scholar)
        share = len({normalise(d.new.answer) for d in denied}) / max(1, structured.facts)
        return Studied(structured, found, before, changes, share)

    def _progress(self, document: Document) -> Report:
        def report(found: Structured) -> None:
            self._log.info(
                "structured",
                document=document.id,
                facts=found.listed,
                covered=found.covered,
                written=found.written,
                kept=len(found.lessons) + len(found.probes),
                passages_left=found.left_out,
            )

        return report

    def _nothing(self) -> Studied:
        return Studied(Structured(), score((), self._probe, self._settings.consumer), (), {}, 0.0)

    def _outcome(
        self, row: DocumentRow, studied: Studied, action: Action, record: Record, noted: Sequence[Row]
    ) -> Outcome:
        update = self._update(row, studied, action) if action.do == "learn" else None
        held = [(x, False) for x in studied.structured.lessons] + [(x, True) for x in studied.structured.probes]

        def effect(session: Session) -> Sequence[Outgoing]:
            _make_room(session, intake.earlier_row(session, row.document, self._returning))
            session.add(row)
            session.flush()
            session.add_all(
                LessonRow(document_id=row.id, payload=x.model_dump(mode="json"), held_out=h) for x, h in held
            )
            session.add_all(noted)
            if update:
                retraction.refuse_leaving(session, update)
                earlier.refuse_overtaken(session, studied.before)
                session.add(budget.waiting_row(update))
                session.flush()
            return self.idle(session)

        if action.do == "quarantine":
            headers = {**record.headers, "lmt2-reason": action.reason.encode()}
            return Outcome(effect, (Outgoing(QUARANTINE, record.value, row.id.encode(), headers),))
        return Outcome(effect)

    def _update(self, row: DocumentRow, studied: Studied, action: Action) -> UpdateRequest:
        """The request for a shard of this document, and of those whose facts it changes."""
        outdated = {answer for _, answer in studied.changes}  # "35 days, no longer ___" would teach what it corrects
        gaps = [gap for gap in studied.structured.gaps if normalise(gap.answer) not in outdated]
        lessons = weighted([*studied.structured.lessons, *gaps], studied.score, self._settings.consumer)
        before = studied.before
        documents: dict[str, Document] = {d.id: d for update in before for d in update.documents}
        return UpdateRequest(
            id=intake.update_id(row.event_key, row.place),
            documents=(*documents.values(), row.document),
            lessons=(*_revised(before, studied, "lessons", row.id), *lessons),
            probes=(*_revised(before, studied, "probes", row.id), *studied.structured.probes),
            replaces=tuple(documents),
            reason=action.reason,
            event_time=row.event_time,
        )

    def _watch(self, document: Document, partition: int, score: Score) -> tuple[Watched, list[Row]]:
        """What the drift detectors say to a document, and what the ledger keeps of it; nothing without a score."""
        if not score.weights or not math.isfinite(score.nll):
            return Watched(), []
        embedding = self._encoder([f"{document.title}\n{document.text}"])[0]
        signal = Signal(score.conflict, score.nll, embedding)
        watched = self._drift.watch(partition, signal)
        for vote in watched.votes:
            telemetry.drift_detections_total.labels(vote.detector, vote.signal).inc()
            self._log.warning(
                "drift",
                document=document.id,
                detector=vote.detector,
                signal=vote.signal,
                statistic=round(vote.statistic, 1),
                since=vote.delay,
                is_drift=vote.signal in watched.drifted,
            )
        return watched, _noted(document.id, partition, signal, watched)

    def _report(self, document: Document, studied: Studied, action: Action) -> None:
        telemetry.documents_total.labels(STATES[action.do]).inc()
        telemetry.conflict_rate.set(studied.score.conflict)
        self._log.info(
            "decided",
            document=document.id,
            action=action.do,
            reason=action.reason,
            conflict=round(studied.score.conflict, 2),
            sure_of_other=round(studied.score.sure_of_other, 2),
            contradicted=round(studied.contradicted, 2),
            changes=len(studied.changes),
        )


def _is_released(before: DocumentRow | None) -> bool:
    return before is not None and before.state == "released"


def _event_time(envelope: Envelope, record: Record) -> datetime:
    return envelope.time or datetime.fromtimestamp(record.timestamp, UTC)


def _or_error(f: Callable[..., T], *args: Any) -> T | EventError:
    """What a function returns, or the EventError that it raises."""
    try:
        return f(*args)
    except EventError as error:
        return error


def _make_room(session: Session, before: DocumentRow | None) -> None:
    """Drop what the ledger has of a document that comes again."""
    if before is not None:
        session.execute(delete(LessonRow).where(LessonRow.document_id == before.id))
        session.execute(delete(DocumentRow).where(DocumentRow.id == before.id))


def _noted(document: str, partition: int, signal: Signal, watched: Watched) -> list[Row]:
    """What the ledger keeps of a document that was watched."""
    votes = [
        DetectionRow(
            document_id=document,
            partition=partition,
            detector=vote.detector,
            signal=vote.signal,
            statistic=vote.statistic,
            delay=vote.delay,
            is_drift=vote.signal in watched.drifted,
        )
        for vote in watched.votes
    ]
    return [signal_row(document, partition, signal), *votes]


def _revised(updates: Sequence[UpdateRequest], studied: Studied, field: str, by: str) -> list[Lesson]:
    return [x for update in updates for x in earlier.revised(getattr(update, field), studied.changes, by)]
