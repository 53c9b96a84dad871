"""What a verdict changes in the ledger, in one transaction; and rollback."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gate import registry
from gate.registry import Refused
from gate.verdict import Judgement
from lmt2 import telemetry
from lmt2.errors import Overtaken, StorageError
from lmt2.events import UpdateRequest
from lmt2.ledger import LEAVING, NOT_RETRACTED, DecisionRow, DocumentRow, PromotionRow, UpdateRow
from memory.versions import Manifest


@dataclass(frozen=True)
class Ruling:
    """A judgement on one candidate.

    Attributes:
        candidate: the version that the learner made.
        examined: the version that was examined: the candidate, or it rebased onto a newer parent.
        request: the update that it came from.
        report: the audit: figures, reference versions, lost answers.
    """

    candidate: str
    examined: Manifest
    request: UpdateRequest
    judgement: Judgement
    report: dict[str, Any]


def carry_out(session: Session, ruling: Ruling) -> bool:
    """Write a ruling; returns False, and changes nothing, if the candidate was decided before.

    Raises:
        StorageError: another version was promoted since the examination; read the record again.
        Overtaken: the update was withdrawn meanwhile.
    """
    judgement, name = ruling.judgement, ruling.examined.id
    # 1. From here on nobody else promotes or rolls back.
    present = registry.lock_present(session)
    # 2. Decided before? Then the effect is there, and what is served may have moved on since.
    if session.get(DecisionRow, ruling.candidate) is not None:
        return False
    # 3. Is the parent still what is served? If not, promoting would undo a rollback, or drop another's documents.
    if present.id != ruling.examined.parent:
        raise StorageError(f"another version was promoted while {name} was decided: its record will be read again")
    # 4. The decision, unless the update was withdrawn; where the version was rebased, first the row that it points at.
    _settle_update(session, ruling.request.id)
    _rebase(session, ruling)
    report = {**ruling.report, "detail": judgement.detail}
    session.add(DecisionRow(version_id=name, verdict=judgement.verdict, reason=judgement.reason, report=report))
    # 5. States.
    registry.settle(registry.version(session, name), judgement.verdict)
    _settle_documents(session, ruling)
    _settle_retracted(session, ruling, registry.manifest_of(present))
    # 6. Desired state, last: replicas act on it as soon as the transaction is committed.
    if judgement.verdict == "accept":
        session.add(PromotionRow(version_id=name, cause="promotion", decision=name))
    return True


def rollback(session: Session, name: str | None = None) -> PromotionRow:
    """Make an accepted version the desired one: the one that is named, or the parent of the present one.

    Documents that only the present version knows become `rejected`, those that only the other one knows `learnt`.

    Raises:
        UnknownVersion: there is no such version.
        Refused: it was not accepted, is served already, teaches what was retracted, or there is none before the
            present one.
    """
    # 1. Where from and where to.
    before = registry.lock_present(session)
    wanted = name or before.parent
    if wanted is None:
        raise Refused(f"there is no version before {before.id}")
    target = registry.version(session, wanted)
    if target.state != "accepted":
        raise Refused(f"version {wanted} is {target.state}: only accepted versions can be served")
    if wanted == before.id:
        raise Refused(f"version {wanted} is the one that should be served already")
    known, knew = _documents(registry.manifest_of(target)), _documents(registry.manifest_of(before))
    query = select(DocumentRow.id).where(DocumentRow.id.in_(known), DocumentRow.state == "retracted")
    if retracted := sorted(session.scalars(query)):
        raise Refused(f"version {wanted} teaches what was retracted since ({', '.join(retracted)}): name another")
    # 2. Desired state.
    row = PromotionRow(version_id=wanted, cause="rollback", decision=None)
    session.add(row)
    session.flush()
    # 3. Documents.
    _set_state(session, knew - known, "rejected", f"rolled back from {before.id} to {wanted}")
    _set_state(session, known - knew, "learnt", f"brought back with {wanted}")
    return row


def _rebase(session: Session, ruling: Ruling) -> None:
    """Where the examined version isn't the learner's: close that one, and hand its update to the examined one."""
    if ruling.examined.id == ruling.candidate:
        return
    stale = registry.version(session, ruling.candidate)
    registry.settle(stale, "inconclusive")
    stale.update_id = None
    note = {"examined_as": ruling.examined.id, "scores": {}, "detail": "its parent is no longer the one that is served"}
    session.add(DecisionRow(version_id=stale.id, verdict="inconclusive", reason="rebased", report=note))
    session.flush()
    registry.add(session, ruling.examined, ruling.request.id, "candidate")


def _settle_update(session: Session, name: str) -> None:
    mine = update(UpdateRow).where(UpdateRow.id == name, UpdateRow.state != "withdrawn")
    if session.scalar(mine.values(state="decided").returning(UpdateRow.id)) is None:
        raise Overtaken(f"update {name} was withdrawn while it was decided on")


def _settle_documents(session: Session, ruling: Ruling) -> None:
    """Accepted: learnt. Otherwise rejected, unless the present version knows them from before.

    An inconclusive verdict rejects its documents too: this first form doesn't come back to them by itself.
    """
    judgement = ruling.judgement
    own = {document.id for document in ruling.request.documents}
    query = select(DocumentRow.id).where(DocumentRow.id.in_(own), DocumentRow.state == "requested")
    waiting = set(session.scalars(query))
    if judgement.verdict == "accept":
        _set_state(session, own, "learnt", "")
        telemetry.documents_total.labels("learnt").inc(len(waiting))
        return
    prefix = "inconclusive: " if judgement.verdict == "inconclusive" else ""
    _set_state(session, waiting, "rejected", f"{prefix}{judgement.reason}: {judgement.detail}")
    telemetry.documents_total.labels("rejected").inc(len(waiting))


def _settle_retracted(session: Session, ruling: Ruling, present: Manifest) -> None:
    """What no version teaches any more is retracted; where the removal was refused, the document is as it was.

    One that was sent again meanwhile is left alone: it is on its way back in.
    """
    is_accepted = ruling.judgement.verdict == "accept"
    staying = _documents(ruling.examined if is_accepted else present)
    gone = set(ruling.request.retracts) | (_documents(present) - _documents(ruling.examined) if is_accepted else set())
    rows = select(DocumentRow).where(DocumentRow.id.in_(gone), DocumentRow.state.in_(("retracting", "learnt")))
    for row in session.scalars(rows):
        if row.id in staying:
            row.state = "learnt"
            row.reason = f"{NOT_RETRACTED}{ruling.judgement.reason}: {ruling.judgement.detail}"
        else:
            row.state, row.reason = "retracted", ""
            telemetry.documents_total.labels("retracted").inc()


def _documents(manifest: Manifest) -> set[str]:
    return {document for shard in manifest.shards for document in shard.documents}


def _set_state(session: Session, documents: set[str], state: str, reason: str) -> None:
    """Retracted documents stay retracted, whatever is decided of the version that they were in."""
    query = select(DocumentRow).where(DocumentRow.id.in_(documents), DocumentRow.state.not_in(LEAVING))
    for row in session.scalars(query):
        row.state, row.reason = state, reason
