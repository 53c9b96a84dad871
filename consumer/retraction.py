"""Retraction: a document's knowledge is taken back, however far the document has come.

What waits for the learner or the gate and teaches it is withdrawn, and asked for anew where other documents wait for
it. If the promoted version teaches it, an update is asked for that removes it: its shard goes, and with it nothing
but the document if that shard is its own; else the shard is rebuilt from what remains. What it had changed in
earlier documents' facts is what it was before.

All of this is decided and written in one transaction, in which nobody else can train or decide on what waits.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from consumer import earlier
from consumer.intake import update_id
from lmt2 import telemetry
from lmt2.errors import EventError, Overtaken
from lmt2.events import UPDATES, UpdateRequest, encode
from lmt2.ledger import LEAVING, DocumentRow, Ledger, UpdateRow, VersionRow
from lmt2.stage import Outcome
from lmt2.transport.base import Outgoing

Origin = tuple[str, str]  # the retraction's event and its place


def take(ledger: Ledger, name: str, origin: Origin, event_time: datetime) -> Outcome:
    """What the retraction of a document leads to.

    Raises:
        EventError: there is no such document.
    """
    with ledger.begin() as session:
        if session.get(DocumentRow, name) is None:
            raise EventError(
                f"retracted: there is no document {name}; one whose text came before under another id has that id"
            )

    def effect(session: Session) -> list[Outgoing]:
        _lock(session, name)
        if session.get_one(DocumentRow, name).state in LEAVING:
            return []
        asked = _retract(session, name, origin, event_time)
        session.add_all(UpdateRow(id=u.id, state="requested", payload=u.model_dump(mode="json")) for u in asked)
        return [_record(u, name) for u in asked]

    return Outcome(effect)


def refuse_leaving(session: Session, request: UpdateRequest) -> None:
    """Hold a new update back if one of its earlier documents was retracted while the new one was studied.

    Raises:
        Overtaken: so it is; studied again, the new document finds the earlier one gone.
    """
    mine = select(DocumentRow.state).where(DocumentRow.id.in_(request.teaches)).with_for_update()
    if set(LEAVING) & set(session.scalars(mine)):
        raise Overtaken(f"a document of update {request.id} was retracted meanwhile")


def _lock(session: Session, name: str) -> None:
    """Until the transaction ends nobody else moves what waits: rows are locked in Postgres, all of it in SQLite."""
    session.execute(update(UpdateRow).where(UpdateRow.state.in_(earlier.WAITING)).values(state=UpdateRow.state))
    session.execute(update(DocumentRow).where(DocumentRow.id == name).values(state=DocumentRow.state))


def _retract(session: Session, name: str, origin: Origin, event_time: datetime) -> list[UpdateRequest]:
    """Withdraw what waits and teaches a document; the updates to ask for instead, the removal first."""
    waiting = earlier.waiting_updates(session)
    withdrawn = [request for request in waiting if name in request.teaches]
    others = [request for request in waiting if name not in request.teaches]
    gone = {name, *(left for request in withdrawn for left in request.retracts)}
    asked = []
    served = earlier.served_update(session, name)
    if served and not any(name in request.retracts for request in others):
        of_served = {"reason": "retracted", "event_time": event_time, "replaces": served.teaches}
        asked.append(_without(served, gone, origin).model_copy(update=of_served))
    asked += _still_wanted(session, withdrawn, others, gone, origin)
    _withdraw(session, withdrawn)
    _settle(session, gone, removed={left for request in (*asked, *others) for left in request.retracts})
    return asked


def _still_wanted(
    session: Session,
    withdrawn: Sequence[UpdateRequest],
    others: Sequence[UpdateRequest],
    gone: Collection[str],
    origin: Origin,
) -> list[UpdateRequest]:
    """Withdrawn updates without what goes, as far as documents wait for them."""
    covered = {name for request in others for name in request.teaches}
    wanted = []
    for request in withdrawn:
        mine = set(request.teaches) - set(gone) - covered
        requested = select(DocumentRow.id).where(DocumentRow.id.in_(mine), DocumentRow.state == "requested")
        if session.scalar(requested.limit(1)) is not None:
            wanted.append(_without(request, gone, origin))
            covered |= mine
    return wanted


def _without(request: UpdateRequest, gone: Collection[str], origin: Origin) -> UpdateRequest:
    """A request for the documents that stay, as if those that go had never come."""
    return request.model_copy(
        update={
            "id": update_id(*origin, request.id),
            "documents": tuple(document for document in request.documents if document.id not in gone),
            "lessons": tuple(earlier.unrevised(request.lessons, gone)),
            "probes": tuple(earlier.unrevised(request.probes, gone)),
            "replaces": tuple(name for name in request.replaces if name not in gone),
        }
    )


def _withdraw(session: Session, requests: Sequence[UpdateRequest]) -> None:
    names = [request.id for request in requests]
    session.execute(update(UpdateRow).where(UpdateRow.id.in_(names)).values(state="withdrawn"))
    candidates = (VersionRow.update_id.in_(names), VersionRow.state == "candidate")
    session.execute(update(VersionRow).where(*candidates).values(state="withdrawn"))


def _settle(session: Session, gone: Collection[str], removed: Collection[str]) -> None:
    """What a version teaches is on its way out; the rest is out."""
    for row in session.scalars(select(DocumentRow).where(DocumentRow.id.in_(gone))):
        row.state, row.reason = ("retracting" if row.id in removed else "retracted"), ""
        if row.state == "retracted":
            telemetry.documents_total.labels("retracted").inc()


def _record(request: UpdateRequest, retracted: str) -> Outgoing:
    """A removal has the retracted document's key: what is asked for after it comes after it."""
    key = retracted if request.retracts else request.teaches[-1]
    return Outgoing(UPDATES, encode(request, id=request.id, source="lmt2/consumer"), key.encode())
