"""Backpressure: while the learner is behind, documents wait on their topic, where they can still be counted."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lmt2 import telemetry
from lmt2.ledger import UpdateRow


def is_full(limit: int, session: Session) -> bool:
    """Whether as many updates wait for the learner as the limit says; the metric is brought up to date."""
    waiting = session.scalar(select(func.count()).where(UpdateRow.state == "requested")) or 0
    telemetry.updates_waiting.set(waiting)
    return waiting >= limit
