"""The budget of micro-updates: how many documents go into one, and how soon one may follow another.

What the trigger asks for waits in the ledger, as updates in the state `waiting`. They go out together once there are
enough of them or the oldest has waited long enough, but not within the cooldown after the update before. A drift and
an operator's release don't wait for that.

A short document has too few questions to hold back for the gate, which then can't tell what was learnt from chance. It
waits for others, and is examined together with them. With the defaults nothing else waits.

Whatever waits survives a restart, may be retracted, and may be changed by a newer document, like any other update.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from consumer.intake import update_id
from lmt2 import telemetry
from lmt2.config import ConsumerSettings
from lmt2.events import UPDATES, UpdateRequest, encode
from lmt2.ledger import UpdateRow, now
from lmt2.transport.base import Outgoing

URGENT = ("drift", "released")  # reasons for which nothing waits


class Waiting(NamedTuple):
    """An update that waits, without its documents."""

    id: str
    since: datetime
    reason: str
    probes: int


def waiting_row(request: UpdateRequest) -> UpdateRow:
    """An update that has been asked for and waits."""
    payload = request.model_dump(mode="json")
    return UpdateRow(id=request.id, state="waiting", payload=payload, figures={"probes": len(request.probes)})


def release(session: Session, settings: ConsumerSettings) -> list[Outgoing]:
    """What may go out now, claimed in the session's transaction: one update, or none."""
    told = UpdateRow.payload["reason"].as_string(), UpdateRow.figures["probes"].as_integer()
    found = select(UpdateRow.id, UpdateRow.created_at, *told)
    waiting = [Waiting(*row) for row in session.execute(found.where(UpdateRow.state == "waiting"))]
    waiting.sort(key=lambda update: update.since)
    telemetry.updates_held.set(len(waiting))
    together = _together(waiting, settings)
    if not _is_due(session, together, settings):
        return []
    claimed = claim(session, [update.id for update in together])
    if not claimed:
        return []
    request = merged(claimed)
    if len(claimed) > 1:
        session.execute(delete(UpdateRow).where(UpdateRow.id.in_([part.id for part in claimed])))
        session.add(UpdateRow(id=request.id, state="requested", payload=request.model_dump(mode="json")))
    value = encode(request, id=request.id, source="lmt2/consumer")
    return [Outgoing(UPDATES, value, request.teaches[-1].encode())]


def merged(requests: Sequence[UpdateRequest]) -> UpdateRequest:
    """One update that teaches what several do, the earliest first; what a later one says of a document counts."""
    if len(requests) == 1:
        return requests[0]
    documents = {document.id: document for request in requests for document in request.documents}
    last = {name: place for place, request in enumerate(requests) for name in request.teaches}
    newest = requests[-1]
    return UpdateRequest(
        id=update_id(*(request.id for request in requests)),
        documents=tuple(documents.values()),
        lessons=tuple(x for place, r in enumerate(requests) for x in r.lessons if last[x.document] == place),
        probes=tuple(x for place, r in enumerate(requests) for x in r.probes if last[x.document] == place),
        replaces=tuple(dict.fromkeys(name for request in requests for name in request.replaces)),
        reason=newest.reason,
        event_time=min(request.event_time for request in requests),
    )


def _together(waiting: Sequence[Waiting], settings: ConsumerSettings) -> Sequence[Waiting]:
    """The oldest ones: a batch of them, or as many more as it takes for enough probes."""
    count = settings.batch
    while count < len(waiting) and _probes(waiting[:count]) < settings.least_probes:
        count += 1
    return waiting[:count]


def _is_due(session: Session, together: Sequence[Waiting], settings: ConsumerSettings) -> bool:
    if not together:
        return False
    has_waited = now() - together[0].since >= timedelta(seconds=settings.oldest_seconds)
    if _probes(together) < settings.least_probes and not has_waited:
        return False
    if any(update.reason in URGENT for update in together):
        return True
    asked = session.scalar(select(func.max(UpdateRow.created_at)).where(UpdateRow.state != "waiting"))
    if asked is not None and now() - asked < timedelta(seconds=settings.cooldown_seconds):
        return False
    return len(together) >= settings.batch or has_waited


def _probes(updates: Sequence[Waiting]) -> int:
    return sum(update.probes for update in updates)


def claim(session: Session, names: Sequence[str]) -> list[UpdateRequest]:
    """The updates among these that no other member was quicker to claim, in their order."""
    mine = update(UpdateRow).where(UpdateRow.id.in_(names), UpdateRow.state == "waiting")
    found = session.execute(
        mine.values(state="requested", created_at=now()).returning(UpdateRow.id, UpdateRow.payload)
    ).all()
    by_name = {name: UpdateRequest.model_validate(payload) for name, payload in found}
    return [by_name[name] for name in names if name in by_name]
