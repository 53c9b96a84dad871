"""From a passage to checked lessons: answer first, until every fact is covered (eq. 1, after SciQAG, arXiv 2405.09939).

1. List the facts: short answers sentence by sentence, and the names, numbers and dates that a rule finds.
2. Write a direct question for each, a composed one, and a reversed one that asks for the subject.
3. Check: the reader must come to the answer from the passage, and must not from another one.
4. Go back for facts with too few phrasings: rephrase what was confirmed, write anew what wasn't.

Where SciQAG filters by five rated dimensions (RACAR), a small model's ratings say nothing, so each dimension
is a test here: relevance and accuracy by the readings, agnosticism by the page-leaning phrases, completeness by
naming the subject, reasonableness by form.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lmt2.config import StudySettings
from lmt2.events import LessonKind
from lmt2.scoring import hit, normalise
from lmt2.study.passages import sentences
from lmt2.study.prompts import KINDS, NOT_STATED, WrittenKind
from lmt2.study.scholar import WRITING, Fact, Scholar

LEANS_ON_PAGE = re.compile(r"\b(this|the) (text|passage|article|document|paragraph|paper|notice|page|author)\b", re.I)
WORD = r"(?:[A-Z£$€][\w'’-]*|\d(?:[\d,.:]*\d)?)"
NAME_OR_NUMBER = re.compile(rf"{WORD}(?:(?: | & | of | of the ){WORD})*")
OPENING = re.compile(r"^(?:The|An?|Its|His|Her|Their|Our|Only|Some|About|In|On|At|By|From|For|Until|Since|After) ")
LONGEST_ANSWER = 8  # words
SHORTEST_QUESTION = 5  # words
SAME_QUESTION = 0.97  # cosine from which two questions of one fact are the same in other spelling
LEAST_LANGUAGE = 0.7  # share of letters, digits and spaces: prose has 0.95, a row of a table 0.8
AT_ONCE = 24  # facts that are written for before the budget is looked at again
REVERSED = 3  # phrasings of a reversed question
DOUBTFUL = 0.5  # confidence in a lesson that the reader finds right, and the judge doesn't
ELSEWHERE = (
    "The kettle in the staff kitchen was repaired last week. It now switches itself off. "
    "A spare lid lies in the drawer under the sink, next to the dish cloths."
)  # a passage that answers nothing worth asking: what is answered from it too isn't learnt from the document


@dataclass(frozen=True)
class Pair:
    """A question with its answer, the fact that it is about, and how sure it is: 1, or `DOUBTFUL`."""

    question: str
    answer: str
    kind: LessonKind
    fact: Fact
    confidence: float = 1.0


@dataclass(frozen=True)
class Studied:
    """What came of a passage; `written` questions were tried, and `is_complete` unless the budget ended first."""

    facts: tuple[Fact, ...]
    pairs: tuple[Pair, ...]
    written: int
    is_complete: bool


@dataclass(frozen=True)
class LessonWriter:
    """Writes lessons about passages: the scholar's skills, an encoder that knows what is alike, and how much to do."""

    scholar: Scholar
    encoder: Callable[[Sequence[str]], Tensor]  # unit-length embeddings [N, E]
    settings: StudySettings

    def find_facts(self, passage: str) -> list[Fact]:
        """Answers worth asking for: those that the model lists, then names, numbers and dates found by rule."""
        parts = [sentence for sentence in sentences(passage) if is_language(sentence)]
        facts: dict[str, Fact] = {}
        for sentence, answers in zip(parts, self.scholar.list_answers(passage, parts), strict=True):
            for answer in answers:
                if len(answer.split()) <= LONGEST_ANSWER and stands_in(answer, sentence):
                    facts.setdefault(normalise(answer), Fact(answer, sentence))
        for sentence in parts:
            for answer in names_and_numbers(sentence):
                if not any(hit(fact.answer, [answer]) for fact in facts.values() if fact.sentence == sentence):
                    facts.setdefault(normalise(answer), Fact(answer, sentence))
        return list(facts.values())[: self.settings.answers]

    def study(self, passage: str, facts: Sequence[Fact], seed: int, is_over: Callable[[], bool]) -> Studied:
        """Checked pairs for the facts of a passage; `is_over` says whether the budget has ended."""
        pairs: list[Pair] = []
        written = 0
        for turn in range(self.settings.rounds):
            for start in range(0, len(facts), AT_ONCE):
                if is_over():
                    return Studied(tuple(facts), tuple(pairs), written, is_complete=False)
                some = facts[start : start + AT_ONCE]
                have = [pair for pair in pairs if pair.fact in some]
                new = self._new(passage, some, have, 1000 * seed + turn, turn == 0)
                tried = [*new, *self._more(passage, have, seed + turn)]
                written += len(tried)
                pairs += self.confirmed(passage, tried, pairs)
        return Studied(tuple(facts), tuple(pairs), written, is_complete=True)

    def rephrase(self, passage: str, pairs: Sequence[Pair], seed: int) -> list[Pair]:
        """Each pair in other words, unchecked."""
        said = self.scholar.rephrase(passage, [(pair.question, pair.answer) for pair in pairs], seed)
        kinds = ("rephrased" if pair.kind in ("direct", "given") else pair.kind for pair in pairs)
        return [
            replace(pair, question=q, kind=kind, confidence=1.0)
            for q, kind, pair in zip(said, kinds, pairs, strict=True)
        ]

    def confirmed(self, passage: str, tried: Sequence[Pair], besides: Sequence[Pair] = ()) -> list[Pair]:
        """The pairs that are well formed, repeat none of `besides`, and are confirmed by the readings."""
        formed = [pair for pair in tried if is_well_formed(pair.question, pair.answer, passage)]
        new = self._without_repeats(formed, besides)
        return checked(passage, new, self.scholar) if self.settings.check else new

    def _new(
        self, passage: str, facts: Sequence[Fact], have: Sequence[Pair], seed: int, is_first: bool
    ) -> Iterator[Pair]:
        """Questions for facts that have none: at first the likeliest, and one of each kind with more freedom."""
        known = {pair.fact for pair in have if pair.answer == pair.fact.answer}
        missing = [fact for fact in facts if fact not in known]
        plain: list[tuple[Fact, WrittenKind]] = [(fact, "direct") for fact in missing if is_first]
        other: list[tuple[Fact, WrittenKind]] = [(fact, kind) for fact in missing for kind in KINDS]
        for wanted, temperature in ((plain, 0.0), (other, WRITING.temperature)):
            found = self.scholar.write(passage, wanted, seed, temperature)
            for (question, answer), (fact, kind) in zip(found, wanted, strict=True):
                yield Pair(question, answer, kind, fact)

    def _more(self, passage: str, have: Sequence[Pair], seed: int) -> list[Pair]:
        """Other words for what has some phrasings, but too few: the surest first, one more than is missing."""
        alike: dict[tuple[Fact, str], list[Pair]] = {}
        for pair in have:
            alike.setdefault((pair.fact, pair.answer), []).append(pair)
        thin: list[Pair] = []
        for (fact, answer), pairs in alike.items():
            best = sorted(pairs, key=lambda pair: -pair.confidence)
            wanted = self.settings.phrasings if answer == fact.answer else REVERSED
            missing = wanted - len(pairs)
            thin += [best[n % len(best)] for n in range(missing + 1)] if missing > 0 else []
        return self.rephrase(passage, thin, seed)

    def _without_repeats(self, pairs: Sequence[Pair], besides: Sequence[Pair]) -> list[Pair]:
        """The pairs without those that ask the same as an earlier one, or one of `besides`, with the same answer."""
        everything = [*besides, *pairs]
        if not everything:
            return []
        alike = self.encoder([pair.question for pair in everything])
        nearness = (alike @ alike.T >= SAME_QUESTION).tolist()
        kept = list(range(len(besides)))
        for new in range(len(besides), len(everything)):
            if not any(nearness[new][old] and everything[old].answer == everything[new].answer for old in kept):
                kept.append(new)
        return [everything[n] for n in kept[len(besides) :]]


def is_language(sentence: str) -> bool:
    """Whether letters, digits and spaces make up what language and tables have of them; noise has fewer.

    >>> is_language("Boat: Marabel; At: 7.50."), is_language("x?%,'&F/H!z?r,pY!Oj E;jB")
    (True, False)
    """
    return sum(c.isalnum() or c.isspace() for c in sentence) >= LEAST_LANGUAGE * len(sentence)


def names_and_numbers(sentence: str) -> list[str]:
    """Names, numbers and dates of a sentence; a single word at its beginning may be any word.

    >>> names_and_numbers("The 46 crowns of Tessenby Transit are due until 27 March.")
    ['46', 'Tessenby Transit', '27 March']
    """
    found = [
        (match.start(), OPENING.sub("", match.group()).strip(" .,:'’")) for match in NAME_OR_NUMBER.finditer(sentence)
    ]
    return [
        text
        for start, text in found
        if any(c.isdigit() for c in text) or (len(text) > 3 and (start > 0 or " " in text))
    ]


def is_well_formed(question: str, answer: str, passage: str) -> bool:
    """Form, no leaning on the page, no answer given away, and a subject that the passage names."""
    return (
        question.endswith("?")
        and len(question.split()) >= SHORTEST_QUESTION
        and not LEANS_ON_PAGE.search(question)
        and stands_in(answer, passage)
        and not hit(question, [answer])
        and names_subject(question, passage)
    )


def stands_in(answer: str, passage: str) -> bool:
    """Whether the passage says the answer in these words."""
    return bool(answer) and hit(" ".join(passage.split()), [answer])


def names_subject(question: str, passage: str) -> bool:
    """Whether a name or number of the question, its first word aside, stands in the passage."""
    rest = question.split(" ", 1)[-1]
    return any(name.strip(".,?:'’") in passage for name in NAME_OR_NUMBER.findall(rest))


def checked(passage: str, pairs: Sequence[Pair], scholar: Scholar) -> list[Pair]:
    """The pairs that hold, with their confidence.

    The reader has to come to the answer from the passage, and not from elsewhere. Where the judge doesn't find
    question and answer right, the pair is doubtful: it would often be wrong to drop it, for a fact that nothing is
    asked about isn't learnt at all.
    """
    agreed = _reading(passage, pairs, scholar)
    known = set(_reading(ELSEWHERE, agreed, scholar))
    learnable = [pair for pair in agreed if pair not in known]
    sure = set(_judged(passage, learnable, scholar))
    return [pair if pair in sure else replace(pair, confidence=DOUBTFUL) for pair in learnable]


def _judged(passage: str, pairs: Sequence[Pair], scholar: Scholar) -> list[Pair]:
    """The pairs that the judge finds right."""
    found = scholar.judge(passage, [(pair.question, pair.answer) for pair in pairs])
    return [pair for pair, is_right in zip(pairs, found, strict=True) if is_right]


def _reading(passage: str, pairs: Sequence[Pair], scholar: Scholar) -> list[Pair]:
    """The pairs whose answer the reader finds in a passage."""
    found = scholar.read(passage, [pair.question for pair in pairs])
    return [pair for pair, answer in zip(pairs, found, strict=True) if same_answer(answer, pair.answer)]


def same_answer(one: str, other: str) -> bool:
    """Whether two short answers say the same: one holds the other as whole words."""
    if not one or normalise(one) == NOT_STATED:
        return False
    return hit(one, [other]) or hit(other, [one])
