"""What `lmt2 status` shows, from the ledger."""

from collections import Counter
from typing import Any

from sqlalchemy import select

from lmt2.ledger import Ledger, ReplicaRow, UpdateRow, count_by_state, desired_version, is_paused
from lmt2.running import Running


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
