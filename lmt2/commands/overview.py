"""What `lmt2 status` and `lmt2 dead-letters` show, from the ledger and the event log."""

from collections import Counter
from typing import Any

from sqlalchemy import select

from lmt2.config import Settings
from lmt2.events import DEAD_LETTERS
from lmt2.ledger import Ledger, ReplicaRow, UpdateRow, count_by_state, desired_version, is_paused
from lmt2.running import Running
from lmt2.transport import open_transport
from lmt2.transport.base import Record

SHOWN = 300  # characters of a dead letter's bytes


def status(ledger: Ledger, running: Running | None) -> dict[str, Any]:
    """What runs, what is served, and what became of the documents."""
    with ledger.begin() as session:
        replicas = session.scalars(select(ReplicaRow).order_by(ReplicaRow.name))
        return {
            "running": running.model_dump(mode="json") if running else None,
            "version": desired_version(session),
            "is_paused": is_paused(session),
            "documents": count_by_state(session),
            "updates": dict(Counter(session.scalars(select(UpdateRow.state)))),
            "replicas": [{"name": r.name, "version": r.version_id, "error": r.error} for r in replicas],
        }


def dead_letters(settings: Settings) -> list[dict[str, Any]]:
    """Records that could not be used, the oldest first."""
    return [_letter(record) for record in open_transport(settings).read_all(DEAD_LETTERS)]


def _letter(record: Record) -> dict[str, Any]:
    headers = {name.removeprefix("lmt2-"): value.decode(errors="replace") for name, value in record.headers.items()}
    return {
        "place": f"{headers['topic']}[{headers['partition']}]@{headers['offset']}",
        "time": headers["time"],
        "error": headers["error"],
        "message": headers["message"],
        "attempts": headers["attempts"],
        "value": record.value[:SHOWN].decode(errors="replace"),
    }
