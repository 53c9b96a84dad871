"""Stream structuring (eq. 1): a document becomes lessons for the learner and probes for the gate.

The lessons themselves are made passage by passage in `lmt2.study.lessons`; here they are put together, within the
document's budget, and some phrasings are held back. A fact whose questions all failed the check is taught by its
sentence with a gap in it: that is right by construction, and the router knows facts by what states them.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from lmt2.config import StudySettings
from lmt2.events import Document, Lesson, QuestionAnswer
from lmt2.scoring import normalise
from lmt2.study.lessons import COVERED, DOUBT, LessonWriter, Pair, Studied, stands_in
from lmt2.study.passages import passages, sentences
from lmt2.study.scholar import Fact

GAP = "___"
ENOUGH = 6  # probes that should be there: with fewer than five the gate can't show a gain


@dataclass(frozen=True)
class Structured:
    """What a document teaches.

    Attributes:
        lessons: what may be trained on.
        probes: phrasings that are held back for the gate.
        gaps: the sentences, each with its gap, of listed facts that no lesson teaches.
        listed: facts that were looked at.
        written: questions that were tried.
        left_out: passages that the budget didn't reach, or not to the end.
    """

    lessons: tuple[Lesson, ...] = ()
    probes: tuple[Lesson, ...] = ()
    gaps: tuple[Lesson, ...] = ()
    listed: int = 0
    written: int = 0
    left_out: int = 0

    @property
    def facts(self) -> int:
        """How many different answers the lessons have."""
        return len({normalise(lesson.answer) for lesson in self.lessons})

    @property
    def covered(self) -> int:
        """How many facts have three phrasings or more, probes included."""
        counts = Counter(lesson.fact for lesson in (*self.lessons, *self.probes))
        return sum(n >= COVERED for n in counts.values())


Report = Callable[[Structured], None]


def structure(document: Document, writer: LessonWriter, report: Report = lambda _: None) -> Structured:
    """Lessons and probes of a document; `report` is told what there is after every passage.

    Ready-made pairs of the event are lessons as they are, and only their answers are asked for in other words.
    """
    deadline = time.monotonic() + writer.settings.seconds
    texts = passages(document)
    found: list[Studied] = []
    known: set[Fact] = set()
    for number, passage in enumerate(texts):
        if time.monotonic() > deadline:
            break
        stated = _given(document, passage) if document.qa else writer.find_facts(passage)
        facts = [fact for fact in stated if fact not in known]  # passages overlap by a sentence
        found.append(writer.study(passage, facts, number, lambda: time.monotonic() > deadline))
        known.update(facts)
        report(_gathered(document, texts, found, writer.settings))
    return _gathered(document, texts, found, writer.settings)


def _given(document: Document, passage: str) -> list[Fact]:
    """The answers of ready-made pairs, as far as this passage states them."""
    answers, parts = dict.fromkeys(pair.answer for pair in document.qa), sentences(passage)
    return [Fact(answer, sentence) for answer in answers if (sentence := _stating(answer, parts))]


def _stating(answer: str, parts: Iterable[str]) -> str:
    """The first of these sentences that says an answer; empty if none does."""
    return next((sentence for sentence in parts if stands_in(answer, sentence)), "")


def _gathered(
    document: Document, texts: Sequence[str], found: Sequence[Studied], settings: StudySettings
) -> Structured:
    parts = [sentences(text) for text in texts]
    written = [
        _lesson(document, number, parts[number], pair) for number, studied in enumerate(found) for pair in studied.pairs
    ]
    given = [_given_lesson(document, pair, chain.from_iterable(parts)) for pair in document.qa]
    kept, held = _hold_back(_one_each([*given, *written]), settings.probes)
    taught = {(x.sentence, normalise(x.answer)) for x in kept}
    gaps = [
        _gap(document, number, parts[number], fact)
        for number, studied in enumerate(found)
        for fact in studied.facts
        if fact.answer in fact.sentence and (fact.sentence, normalise(fact.answer)) not in taught
    ]
    return Structured(
        lessons=tuple(kept),
        probes=tuple(held),
        gaps=tuple(_one_each(gaps)),
        listed=sum(len(studied.facts) for studied in found),
        written=sum(studied.written for studied in found),
        left_out=len(texts) - sum(studied.is_complete for studied in found),
    )


def _given_lesson(document: Document, pair: QuestionAnswer, parts: Iterable[str]) -> Lesson:
    sentence = _stating(pair.answer, parts)
    return Lesson(question=pair.question, answer=pair.answer, kind="given", document=document.id, sentence=sentence)


def _lesson(document: Document, number: int, parts: Sequence[str], pair: Pair) -> Lesson:
    return Lesson(
        question=pair.question,
        answer=pair.answer,
        kind=pair.kind,
        document=document.id,
        passage=number,
        sentence=pair.fact.sentence,
        fact=f"{number}.{parts.index(pair.fact.sentence)} {normalise(pair.answer)}",
        weight=pair.weight,
    )


def _gap(document: Document, number: int, parts: Sequence[str], fact: Fact) -> Lesson:
    sentence = fact.sentence.replace(fact.answer, GAP)
    pair = Pair(f"{document.title}: {sentence}".removeprefix(": "), fact.answer, "gap", fact, surety=DOUBT)
    return _lesson(document, number, parts, pair)


def _one_each(lessons: Sequence[Lesson]) -> list[Lesson]:
    """Each question once: one that was written for two answers, or in two passages, would be trained towards both."""
    return list({normalise(lesson.question): lesson for lesson in reversed(lessons)}.values())[::-1]


def _hold_back(lessons: Sequence[Lesson], probes: int) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons, and one phrasing of as many facts as asked for, the best covered first; each keeps two to learn from.

    A document of few facts gives a second phrasing of some, so that the gate has enough to show a gain with.
    """
    by_fact: dict[str, list[Lesson]] = {}
    for lesson in lessons:
        by_fact.setdefault(lesson.fact, []).append(lesson)
    covered = sorted((fact for fact in by_fact.values() if len(fact) >= COVERED), key=len, reverse=True)
    spare = [_spare(fact) for fact in covered]
    held = [fact[-1] for fact in spare if fact][:probes]
    few = max(0, min(probes, ENOUGH) - len(held))
    held += [fact[-2] for fact in spare if len(fact) >= 2][:few]
    return [lesson for lesson in lessons if lesson not in held], held


def _spare(fact: Sequence[Lesson]) -> list[Lesson]:
    """The lessons of a fact that may be held back: sure ones that were written, all but two."""
    sure = [lesson for lesson in fact if lesson.kind != "given" and lesson.weight == 1]
    return sure[-(len(fact) - COVERED + 1) :]
