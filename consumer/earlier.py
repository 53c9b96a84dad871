"""What earlier documents say about a new one's facts: what it changes, and what it contradicts.

Which of two texts is right, no model can say. A document may change what an earlier one says if it names that one
in `supersedes`, or if the same source publishes it later; whoever else disagrees with an earlier document
contradicts it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from consumer.alike import Alike
from lmt2.errors import Overtaken
from lmt2.events import Document, Lesson, Said, UpdateRequest
from lmt2.ledger import DocumentRow, UpdateRow, VersionRow, desired_version
from lmt2.scoring import normalise
from lmt2.study.lessons import same_answer, stands_in
from lmt2.study.prompts import NOT_STATED
from lmt2.study.scholar import Scholar

Fact = tuple[str, str]  # a document and a normalised answer
Changes = Mapping[Fact, str]
WAITING = ("waiting", "requested", "dead", "trained")  # states of updates that may still be learnt


def contradictions(alike: Sequence[Alike], texts: Sequence[str], scholar: Scholar) -> list[Alike]:
    """Earlier lessons that a new document answers differently, each with the new lesson that says so.

    Two signs must agree: a new lesson asks nearly the same and has another answer, and the reader, given the new
    text, answers the earlier question with it.
    """
    return _confirmed(_answered_otherwise(alike), texts, scholar)


def changes(earlier: Sequence[Lesson], texts: Sequence[str], scholar: Scholar) -> Changes:
    """The facts of earlier lessons that a newer text changes, and their new answers.

    A correction restates what it corrects ("35 days, no longer 24"). So only facts whose earlier answer stands in the
    new text are asked for again, and one is changed if the reader finds the same other answer for at least half of
    its lessons. A change that doesn't restate the earlier answer isn't found.
    """
    votes: dict[Fact, Counter[str]] = {}
    for text in texts:
        asked = [x for x in earlier if x.kind != "gap" and stands_in(x.answer, text)]
        found = scholar.read(text, [x.question for x in asked])
        for lesson, answer in zip(asked, found, strict=True):
            votes.setdefault(fact_of(lesson), Counter())[_other_than(lesson.answer, answer)] += 1
    best = {fact: count.most_common(1)[0] for fact, count in votes.items()}
    return {fact: answer for fact, (answer, n) in best.items() if answer and 2 * n >= votes[fact].total()}


def _other_than(old: str, new: str) -> str:
    """The new answer if it says something else in the same form, a number for a number; else nothing."""
    is_other = normalise(new) != NOT_STATED and not same_answer(old, new) and _has_digit(old) == _has_digit(new)
    return new if is_other else ""


def _answered_otherwise(alike: Sequence[Alike]) -> list[Alike]:
    """The pairs with another answer in the same form.

    What another earlier lesson says as well is no contradiction: the first one has been corrected since.
    """
    said_before = {pair.new.answer for pair in alike if same_answer(pair.old.answer, pair.new.answer)}
    others = [pair for pair in alike if pair.new.answer not in said_before]
    return [pair for pair in others if _other_than(pair.old.answer, pair.new.answer)]


def _confirmed(pairs: Sequence[Alike], texts: Sequence[str], scholar: Scholar) -> list[Alike]:
    """The pairs whose new answer the reader gives to the earlier question from the new passage."""
    kept: list[Alike] = []
    for number, text in enumerate(texts):
        here = [pair for pair in pairs if pair.new.passage == number]
        found = scholar.read(text, [pair.old.question for pair in here])
        kept += [pair for pair, answer in zip(here, found, strict=True) if same_answer(answer, pair.new.answer)]
    return kept


def fact_of(lesson: Lesson) -> Fact:
    """The fact of a lesson: lessons of one document with one answer teach the same one."""
    return lesson.document, normalise(lesson.answer)


def _has_digit(answer: str) -> bool:
    return any(character.isdigit() for character in answer)


def maybe_older(document: Document) -> ColumnElement[bool]:
    """Rows that `is_news` is to be asked about; a ledger holds too many for all of them to be read each time."""
    is_named = DocumentRow.id == document.supersedes
    same_source = DocumentRow.payload["source"].as_string() == document.source
    return or_(is_named, same_source) if document.source and document.published_at else is_named


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
    waiting = (request for request in waiting_updates(session) if document_id in request.teaches)
    return next(waiting, None) or served_update(session, document_id)


def refuse_overtaken(session: Session, before: Sequence[UpdateRequest]) -> None:
    """Hold a new update back if what it builds on was replaced, refused or withdrawn while it was studied.

    Raises:
        Overtaken: so it is; studied again, the new document builds on what is there now.
    """
    for request in before:
        for name in request.teaches:
            now = present_update(session, name)
            if now is None or now.id != request.id:
                raise Overtaken(f"update {request.id}, which teaches {name}, was overtaken meanwhile")


def waiting_updates(session: Session) -> list[UpdateRequest]:
    """The updates that wait for the learner or the gate, the newest first."""
    waiting = select(UpdateRow.payload).where(UpdateRow.state.in_(WAITING)).order_by(UpdateRow.created_at.desc())
    return [UpdateRequest.model_validate(payload) for payload in session.scalars(waiting)]


def served_update(session: Session, document_id: str) -> UpdateRequest | None:
    """The update behind a document's shard in the promoted version; None where it has none."""
    version = session.get(VersionRow, desired_version(session))
    shards = version.manifest["shards"] if version else []
    names = [shard["update"] for shard in shards if document_id in shard["documents"]]
    row = session.get(UpdateRow, names[0]) if names else None
    return UpdateRequest.model_validate(row.payload) if row else None


def revised(old: Sequence[Lesson], changed: Changes, by: str) -> list[Lesson]:
    """Earlier lessons with the new answers that a document gives to changed facts."""
    return [_answered(x, Said(document=by, answer=changed[fact_of(x)])) if fact_of(x) in changed else x for x in old]


def unrevised(lessons: Sequence[Lesson], gone: Collection[str]) -> list[Lesson]:
    """The lessons of documents that stay, as if those that go had never changed an answer."""
    return [_unsaid(x, gone) for x in lessons if x.document not in gone]


def _answered(lesson: Lesson, said: Said) -> Lesson:
    before = lesson.history or (Said(document=lesson.document, answer=lesson.answer),)
    return lesson.model_copy(update={"answer": said.answer, "history": (*before, said)})


def _unsaid(lesson: Lesson, gone: Collection[str]) -> Lesson:
    kept = tuple(said for said in lesson.history if said.document not in gone)
    return lesson.model_copy(update={"answer": kept[-1].answer, "history": kept}) if kept else lesson
