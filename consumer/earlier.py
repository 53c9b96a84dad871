"""What earlier documents say about a new document's questions: contradictions, and facts that it supersedes.

A disagreement is counted only where two signs agree: an earlier lesson asks nearly the same question and has
another answer. Which of the two is right, no model can say: the document's own `supersedes` field, or the same
source publishing again, makes it news; otherwise it is a contradiction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from consumer.structuring import same_answer
from lmt2.events import Document, Lesson, UpdateRequest
from lmt2.ledger import DocumentRow, LessonRow, UpdateRow, VersionRow, desired_version
from lmt2.models.encoder import Encoder

SAME_QUESTION = 0.8  # cosine of two questions' embeddings from which they ask the same thing
LIVE = ("requested", "learnt", "known")  # states of documents
WAITING = ("requested", "trained")  # states of updates


@dataclass(frozen=True)
class Disagreement:
    """A new lesson and an earlier one that ask the same and answer differently."""

    new: Lesson
    old: Lesson


def earlier_lessons(session: Session, besides: str) -> list[Lesson]:
    """All lessons and probes of documents that were let in."""
    query = (
        select(LessonRow)
        .join(DocumentRow, DocumentRow.id == LessonRow.document_id)
        .where(DocumentRow.state.in_(LIVE), DocumentRow.id != besides)
    )
    return [row.lesson for row in session.scalars(query)]


def disagreements(lessons: Sequence[Lesson], earlier: Sequence[Lesson], encoder: Encoder) -> list[Disagreement]:
    """One disagreement at most for each earlier lesson, with the new lesson that asks most nearly the same."""
    if not lessons or not earlier:
        return []
    nearness = encoder([x.question for x in earlier]) @ encoder([x.question for x in lessons]).T
    values, nearest = nearness.max(dim=1)
    pairs = [
        Disagreement(new=lessons[place], old=old)
        for old, value, place in zip(earlier, values.tolist(), nearest.tolist(), strict=True)
        if value >= SAME_QUESTION
    ]
    return [pair for pair in pairs if not same_answer(pair.new.answer, pair.old.answer)]


def is_news(document: Document, old: Document) -> bool:
    """Whether a document may change what an earlier one says: it says so, or its source publishes again, later."""
    if document.supersedes == old.id:
        return True
    is_later = document.published_at and old.published_at and document.published_at > old.published_at
    return bool(document.source and document.source == old.source and is_later)


def present_update(session: Session, document_id: str) -> UpdateRequest | None:
    """The update that teaches a document; None where none does.

    The newest that waits for the learner or the gate, for it will be promoted by the time a new document is learnt;
    else the one behind the document's shard in the promoted version.
    """
    waiting = select(UpdateRow.payload).where(UpdateRow.state.in_(WAITING)).order_by(UpdateRow.created_at.desc())
    for request in map(UpdateRequest.model_validate, session.scalars(waiting)):
        if any(document.id == document_id for document in request.documents):
            return request
    version = session.get(VersionRow, desired_version(session))
    shards = version.manifest["shards"] if version else []
    names = [shard["update"] for shard in shards if document_id in shard["documents"]]
    row = session.get(UpdateRow, names[0]) if names else None
    return UpdateRequest.model_validate(row.payload) if row else None


def revised(old: Sequence[Lesson], changes: Sequence[Disagreement]) -> list[Lesson]:
    """Earlier lessons with the new answer where a new document gives one."""
    answers = {(change.old.document, change.old.question): change.new.answer for change in changes}
    stale = {(change.old.document, change.old.answer): change.new.answer for change in changes}

    def present(x: Lesson) -> str:
        return answers.get((x.document, x.question)) or stale.get((x.document, x.answer)) or x.answer

    return [x.model_copy(update={"answer": present(x)}) for x in old]
