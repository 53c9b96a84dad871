"""Where documents are on their way, read from the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lmt2.events import Document
from lmt2.ledger import NOT_RETRACTED, TERMINAL, DecisionRow, DocumentRow, LessonRow, UpdateRow, VersionRow

STEPS = 3  # studied, trained, decided


@dataclass(frozen=True)
class Progress:
    """How far a document is.

    Attributes:
        document: its id.
        state: of the document; empty before the consumer has decided on it.
        step: steps done, of `STEPS`.
        detail: what is going on or came of it, for people.
        update: the micro-update that teaches it; empty where there is none.
        version: the version that was decided on; empty before that.
    """

    document: str
    state: str
    step: int
    detail: str
    update: str = ""
    version: str = ""

    @property
    def is_decided(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in TERMINAL


def follow(session: Session, documents: Sequence[Document]) -> list[Progress]:
    """Where each document is now. What was sent before under another id is where that one is."""
    updates = list(session.scalars(select(UpdateRow).order_by(UpdateRow.created_at.desc())))
    return [_progress(session, document, updates) for document in documents]


def _progress(session: Session, document: Document, updates: Sequence[UpdateRow]) -> Progress:
    row = session.scalar(select(DocumentRow).where(DocumentRow.content_hash == document.content_hash))
    if row is None:
        return Progress(document.id, "", 0, "waits to be studied")
    studied = f"{_count_lessons(session, row.id)} questions, conflict {row.conflict or 0:.2f}"
    update = next((u for u in updates if row.id in {d["id"] for d in u.payload["documents"]}), None)
    if update is None:
        return Progress(document.id, row.state, STEPS, _because(row, studied))
    if row.state not in TERMINAL:
        doing = {
            "waiting": f"{row.reason}: waits for others, or for the cooldown",
            "dead": f"{row.reason}: its training failed for good; see lmt2 dead-letters list",
            "trained": f"{_loss(update)}; the gate examines it",
        }.get(update.state, f"{row.reason}: waits for its training")
        step = 2 if update.state == "trained" else 1
        return Progress(document.id, row.state, step, f"{studied}; {doing}", update.id)
    version, decision = _decision(session, update)
    told = "; ".join(part for part in (studied, _loss(update), decision or row.reason) if part)
    return Progress(document.id, row.state, STEPS, told, update.id, version)


def follow_retraction(session: Session, document: str, since: datetime) -> Progress:
    """Where a document is on its way out. What was said of it before `since` is not about this retraction."""
    row = session.get(DocumentRow, document)
    if row is None:
        return Progress(document, "", 0, "waits to be taken back")
    if row.state == "retracted":
        return Progress(document, row.state, STEPS, "no version that is served teaches it")
    if row.state == "retracting":
        return Progress(document, row.state, 1, "its removal is made and examined")
    if row.reason.startswith(NOT_RETRACTED) and row.changed_at > since:
        return Progress(document, row.state, STEPS, row.reason)
    return Progress(document, "", 0, "waits to be taken back")


def _because(row: DocumentRow, studied: str) -> str:
    return f"{row.reason}; {studied}" if row.reason else studied


def _count_lessons(session: Session, document: str) -> int:
    return session.scalar(select(func.count()).where(LessonRow.document_id == document)) or 0


def _loss(update: UpdateRow) -> str:
    figures = update.figures
    return f"loss {figures['loss_first']:.2f} → {figures['loss_last']:.2f}" if "loss_last" in figures else ""


def _decision(session: Session, update: UpdateRow) -> tuple[str, str]:
    """The version that was decided on, and the decision's figures in words."""
    found = session.execute(
        select(VersionRow.id, DecisionRow.report)
        .join(DecisionRow, DecisionRow.version_id == VersionRow.id)
        .where(VersionRow.update_id == update.id)
    ).first()
    return (found[0], str(found[1].get("detail", ""))) if found else ("", "")
