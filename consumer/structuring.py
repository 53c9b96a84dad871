"""Stream structuring (eq. 1): a document becomes lessons for the learner and probes for the gate.

The lessons themselves are made passage by passage in `lmt2.study.lessons`; here they are put together, within the
document's budget, and some phrasings are held back.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmt2.config import StudySettings
from lmt2.events import Document, Lesson
from lmt2.scoring import normalise
from lmt2.study.lessons import COVERED, LessonWriter, Pair, Studied, stands_in
from lmt2.study.passages import passages, sentences
from lmt2.study.scholar import Fact

ENOUGH = 6  # probes that should be there: with fewer than five the gate can't show a gain


@dataclass(frozen=True)
class Structured:
    """What a document teaches.

    Attributes:
        lessons: what may be trained on.
        probes: phrasings that are held back for the gate.
        listed: facts that were looked at.
        written: questions that were tried.
        left_out: passages that the budget didn't reach, or not to the end.
    """

    lessons: tuple[Lesson, ...] = ()
    probes: tuple[Lesson, ...] = ()
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
    answers = dict.fromkeys(pair.answer for pair in document.qa)
    stated = ((a, next((s for s in sentences(passage) if stands_in(a, s)), "")) for a in answers)
    return [Fact(answer, sentence) for answer, sentence in stated if sentence]


def _gathered(
    document: Document, texts: Sequence[str], found: Sequence[Studied], settings: StudySettings
) -> Structured:
    written = [
        _lesson(document, number, sentences(texts[number]), pair)
        for number, studied in enumerate(found)
        for pair in studied.pairs
    ]
    given = [Lesson(question=p.question, answer=p.answer, kind="given", document=document.id) for p in document.qa]
    kept, held = _hold_back(_one_each([*given, *written]), settings.probes)
    return Structured(
        lessons=tuple(kept),
        probes=tuple(held),
        listed=sum(len(studied.facts) for studied in found),
        written=sum(studied.written for studied in found),
        left_out=len(texts) - sum(studied.is_complete for studied in found),
    )


def _lesson(document: Document, number: int, parts: Sequence[str], pair: Pair) -> Lesson:
    return Lesson(
        question=pair.question,
        answer=pair.answer,
        kind=pair.kind,
        document=document.id,
        passage=number,
        fact=f"{number}.{parts.index(pair.fact.sentence)} {normalise(pair.answer)}",
        weight=pair.weight,
    )


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
