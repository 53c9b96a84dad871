"""Stream structuring (eq. 1, after SciQAG, arXiv 2405.09939): a document becomes checked question-answer pairs.

Answer first: list what is worth asking, write questions of each kind for each answer, keep a pair if the
reader, given the passage and the question, comes back with the answer. Facts with too few phrasings get
another round. Where SciQAG filters by five rated dimensions (RACAR), a small model's ratings say nothing, so
each dimension is a test here: relevance and accuracy by the round trip through the reader, agnosticism by
the page-leaning phrases, completeness by naming the subject, reasonableness by form.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lmt2.config import StudySettings
from lmt2.events import Document, Lesson
from lmt2.scoring import hit, normalise
from lmt2.study.passages import passages
from lmt2.study.prompts import KINDS, NOT_STATED, QuestionKind
from lmt2.study.scholar import Scholar

LEANS_ON_PAGE = re.compile(r"\b(this|the) (text|passage|article|document|paragraph|paper|notice|page|author)\b", re.I)
WORD = r"(?:[A-Z£$€][\w'’-]*|\d(?:[\d,.:]*\d)?)"
NAME_OR_NUMBER = re.compile(rf"{WORD}(?:(?: | & | of | of the ){WORD})*")
LONGEST_ANSWER = 8  # words
SHORTEST_QUESTION = 5  # words
SAME_QUESTION = 0.8  # share of words from which two questions of one fact count as one


@dataclass(frozen=True)
class Structured:
    """What a document teaches. `listed` answers were tried; `lessons` cover some of them; probes are held back."""

    lessons: tuple[Lesson, ...]
    probes: tuple[Lesson, ...]
    listed: int
    written: int

    @property
    def facts(self) -> int:
        """How many different answers the lessons have."""
        return len({normalise(lesson.answer) for lesson in self.lessons})


def structure(document: Document, scholar: Scholar, settings: StudySettings) -> Structured:
    """Lessons and probes of a document. Ready-made pairs of the event are taken as they are."""
    if document.qa:
        return _as_given(document, scholar, settings)
    kept: list[Lesson] = []
    listed = written = 0
    for number, passage in enumerate(passages(document)):
        answers = worth_asking(passage, scholar.list_answers(passage, settings.lists, seed=number), settings.answers)
        pairs: list[Lesson] = []
        for turn in range(settings.rounds):
            wanted = _wanted(answers, pairs, settings.phrasings)
            new = _written(document, number, passage, answers, wanted, scholar, seed=1000 * turn + number)
            pairs = without_repeats(pairs + new)
            written += len(wanted)
        listed += len(answers)
        kept = without_repeats(kept + pairs)  # passages overlap by a sentence
    return _hold_back(kept, settings.probes, listed, written)


def _as_given(document: Document, scholar: Scholar, settings: StudySettings) -> Structured:
    """The producer's own pairs as lessons; the gate's probes are other phrasings for the same answers."""
    lessons = [Lesson(question=p.question, answer=p.answer, kind="given", document=document.id) for p in document.qa]
    answers = list(dict.fromkeys(pair.answer for pair in document.qa))
    probes: dict[str, Lesson] = {}
    for number, passage in enumerate(passages(document)):
        stated = [answer for answer in answers if stands_in(answer, passage)]
        for pair in _written(document, number, passage, stated, _wanted(stated, [], 1), scholar, seed=number):
            probes.setdefault(normalise(pair.answer), pair)
    asked = {normalise(lesson.question) for lesson in lessons}
    held = [probe for probe in probes.values() if normalise(probe.question) not in asked]
    return Structured(tuple(lessons), tuple(held[: settings.probes]), len(answers), len(held))


def worth_asking(passage: str, listed: Sequence[str], limit: int) -> list[str]:
    """Answers that stand in the passage: those that the model listed, then names, numbers and dates found by rule."""
    found = (match.strip(" .,:'’") for match in NAME_OR_NUMBER.findall(passage))
    by_rule = [text for text in found if len(text) > 3 or text.isdigit()]
    answers: dict[str, str] = {}
    for answer in [*listed, *by_rule]:
        if len(answer.split()) <= LONGEST_ANSWER and stands_in(answer, passage):
            answers.setdefault(normalise(answer), answer)
    return list(answers.values())[:limit]


def stands_in(answer: str, passage: str) -> bool:
    """Whether the passage says the answer in these words."""
    return hit(" ".join(passage.split()), [answer])


def is_well_formed(question: str, answer: str, passage: str) -> bool:
    """Form, no leaning on the page, no answer given away, and a subject that the passage names."""
    return (
        question.endswith("?")
        and "\n" not in question
        and len(question.split()) >= SHORTEST_QUESTION
        and not LEANS_ON_PAGE.search(question)
        and not hit(question, [answer])
        and names_subject(question, passage)
    )


def names_subject(question: str, passage: str) -> bool:
    """Whether a name or number of the question, its first word aside, stands in the passage."""
    rest = question.split(" ", 1)[-1]
    return any(name.strip(".,?:'’") in passage for name in NAME_OR_NUMBER.findall(rest))


def _written(
    document: Document,
    number: int,
    passage: str,
    answers: Sequence[str],
    wanted: Sequence[tuple[str, QuestionKind]],
    scholar: Scholar,
    seed: int,
) -> list[Lesson]:
    """Questions for wanted answers, as far as they are well formed and the reader agrees."""
    questions = scholar.write(passage, answers, wanted, seed)
    tried = [
        Lesson(question=question, answer=answer, kind=kind, document=document.id, passage=number)
        for question, (answer, kind) in zip(questions, wanted, strict=True)
        if is_well_formed(question, answer, passage)
    ]
    return agreed(passage, without_repeats(tried), scholar)


def agreed(passage: str, pairs: Sequence[Lesson], scholar: Scholar) -> list[Lesson]:
    """The pairs whose answer the reader finds by itself."""
    found = scholar.read(passage, [pair.question for pair in pairs])
    return [pair for pair, answer in zip(pairs, found, strict=True) if same_answer(answer, pair.answer)]


def same_answer(one: str, other: str) -> bool:
    """Whether two short answers say the same: one holds the other as whole words."""
    if not one or normalise(one) == NOT_STATED:
        return False
    return hit(one, [other]) or hit(other, [one])


def without_repeats(pairs: Sequence[Lesson]) -> list[Lesson]:
    """The pairs without those whose question nearly repeats an earlier one of the same answer."""
    kept: list[Lesson] = []
    for pair in pairs:
        words = set(normalise(pair.question).split())
        if not any(p.answer == pair.answer and _overlap(words, p.question) >= SAME_QUESTION for p in kept):
            kept.append(pair)
    return kept


def _overlap(words: set[str], question: str) -> float:
    others = set(normalise(question).split())
    return len(words & others) / len(words | others)


def _wanted(answers: Sequence[str], have: Sequence[Lesson], phrasings: int) -> list[tuple[str, QuestionKind]]:
    """Each kind for each answer that has fewer phrasings than it should."""
    counts = {answer: sum(pair.answer == answer for pair in have) for answer in answers}
    return [(answer, kind) for answer in answers if counts[answer] < phrasings for kind in KINDS]


def _hold_back(pairs: Sequence[Lesson], probes: int, listed: int, written: int) -> Structured:
    """Hold back one phrasing of as many facts as asked for, the best covered first; each keeps two to learn from.

    A question may ask for two facts at once, such as a name and its surname; then it is held back for neither.
    """
    times_asked = Counter(normalise(pair.question) for pair in pairs)
    by_fact: dict[str, list[Lesson]] = {}
    for pair in pairs:
        by_fact.setdefault(normalise(pair.answer), []).append(pair)
    covered = sorted((fact for fact in by_fact.values() if len(fact) > 2), key=len, reverse=True)
    unique = ([pair for pair in fact if times_asked[normalise(pair.question)] == 1] for fact in covered)
    held = [fact[-1] for fact in unique if fact][:probes]
    lessons = tuple(pair for pair in pairs if pair not in held)
    return Structured(lessons, tuple(held), listed, written)
