"""From a passage to checked lessons: answer first, until every fact is covered (eq. 1, after SciQAG, arXiv 2405.09939).

1. List the facts: short answers sentence by sentence, and the names, numbers and dates that a rule finds.
2. Write several direct questions for each, some composed ones, and reversed ones that ask for the subject.
3. Check: the reader must come to the answer from the passage, and must not from another one.
4. Go back: rephrase what was confirmed, and write anew for facts with too few phrasings.
5. Keep the surest of each fact: a small model writes more wrong questions than right ones, and its own likelihoods
   tell them apart better than any check with yes or no (docs/experiments.md).

Where SciQAG filters by five rated dimensions (RACAR), a small model's ratings say nothing, so each dimension
is a test here: relevance and accuracy by the readings, agnosticism by the page-leaning phrases, completeness by
naming the subject, reasonableness by form.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lmt2.config import StudySettings
from lmt2.events import LessonKind
from lmt2.models.encoder import Embeds
from lmt2.scoring import hit, normalise
from lmt2.study.passages import sentences
from lmt2.study.prompts import NOT_STATED, WrittenKind
from lmt2.study.scholar import Fact, Scholar

LEANS_ON_PAGE = re.compile(r"\b(this|the) (text|passage|article|document|paragraph|paper|notice|page|author)\b", re.I)
WORD = r"(?:[A-Z£$€][\w'’-]*|\d(?:[\d,.:]*\d)?)"
NAME_OR_NUMBER = re.compile(rf"{WORD}(?:(?: | & | of | of the ){WORD})*")
OPENING = re.compile(r"^(?:The|An?|Its|His|Her|Their|Our|Only|Some|About|In|On|At|By|From|For|Until|Since|After) ")
LONGEST_ANSWER = 8  # words
SHORTEST_QUESTION = 5  # words
SAME_QUESTION = 0.97  # cosine from which two questions of one fact are the same in other spelling
LEAST_LANGUAGE = 0.7  # share of letters, digits and spaces: prose has 0.95, a row of a table 0.8
AT_ONCE = 16  # facts that are written for before the budget is looked at again; four questions each fill a batch
COVERED = 3  # phrasings from which a fact counts as covered
DIRECT, OTHER = 4, 2  # direct questions tried for a fact besides the likeliest, and composed and reversed ones
FREEDOM, MORE_FREEDOM = 0.8, 1.0  # temperatures: of the first questions, and where those weren't enough
ANEW = 3  # direct questions tried for a fact that isn't covered yet
REPHRASED, AGAIN = 2, 2  # so many of an answer's surest questions are rephrased, and so often
REVERSED = 2  # phrasings kept of a question that a fact isn't the answer of
DOUBT, DOUBTFUL = -4.5, 0.5  # surety up to which a lesson is doubtful, and the weight that it has then
ELSEWHERE = (
    "The kettle in the staff kitchen was repaired last week. It now switches itself off. "
    "A spare lid lies in the drawer under the sink, next to the dish cloths."
)  # a passage that answers nothing worth asking: what is answered from it too isn't learnt from the document


@dataclass(frozen=True)
class Pair:
    """A question with its answer, the fact that it is about, and how sure it is that they belong together."""

    question: str
    answer: str
    kind: LessonKind
    fact: Fact
    surety: float = 0.0

    @property
    def weight(self) -> float:
        """The lesson's weight in training."""
        return DOUBTFUL if self.surety <= DOUBT else 1.0


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
    encoder: Embeds
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
        """The surest checked pairs for the facts of a passage; `is_over` says whether the budget has ended."""
        pairs: list[Pair] = []
        written = 0
        for turn in range(self.settings.rounds):
            for start in range(0, len(facts), AT_ONCE):
                if is_over():
                    return Studied(tuple(facts), self._surest(pairs), written, is_complete=False)
                some = facts[start : start + AT_ONCE]
                stream = 1000 * (1000 * seed + turn)
                tried = (
                    self._again(passage, some, pairs, stream) if turn else self._first(passage, some, stream, is_over)
                )
                written += len(tried)
                pairs += self.weighed(passage, self.confirmed(passage, tried, pairs))
        return Studied(tuple(facts), self._surest(pairs), written, is_complete=not is_over())

    def rephrase(self, passage: str, pairs: Sequence[Pair], seed: int) -> list[Pair]:
        """Each pair in other words, unchecked."""
        said = self.scholar.rephrase(passage, [(pair.question, pair.answer) for pair in pairs], seed)
        kinds = ("rephrased" if pair.kind in ("direct", "given") else pair.kind for pair in pairs)
        return [
            replace(pair, question=q, kind=kind, surety=0.0) for q, kind, pair in zip(said, kinds, pairs, strict=True)
        ]

    def confirmed(self, passage: str, tried: Sequence[Pair], besides: Sequence[Pair] = ()) -> list[Pair]:
        """The pairs that are well formed, repeat none of `besides`, and are confirmed by the readings."""
        formed = [pair for pair in tried if is_well_formed(pair.question, pair.answer, passage)]
        new = self._without_repeats(formed, besides)
        return checked(passage, new, self.scholar) if self.settings.check else new

    def weighed(self, passage: str, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs with how sure each is."""
        if not self.settings.check:
            return list(pairs)
        asked = [(pair.question, pair.answer, pair.fact) for pair in pairs]
        found = self.scholar.surety(passage, asked)
        return [replace(pair, surety=surety) for pair, surety in zip(pairs, found, strict=True)]

    def _first(self, passage: str, facts: Sequence[Fact], seed: int, is_over: Callable[[], bool]) -> list[Pair]:
        """The likeliest question for each fact, and as the budget allows several of each kind."""
        direct, other = _wanted(facts, ["direct"]), _wanted(facts, ["composed", "reversed"])
        tried = self._written(passage, direct, seed, 0.0)
        if not is_over():
            tried += self._written(passage, DIRECT * direct, seed, FREEDOM)
        if not is_over():
            tried += self._written(passage, OTHER * other, seed + 1, FREEDOM)
        return tried

    def _again(self, passage: str, facts: Sequence[Fact], pairs: Sequence[Pair], seed: int) -> list[Pair]:
        """New questions for facts that aren't covered, and the surest of all in other words."""
        groups = {key: found for key, found in _by_answer(pairs).items() if key[0] in facts}
        thin = [fact for fact in facts if len(groups.get((fact, fact.answer), [])) < COVERED]
        tried = self._written(passage, ANEW * _wanted(thin, ["direct"]), seed, MORE_FREEDOM)
        return tried + self.rephrase(passage, AGAIN * [p for found in groups.values() for p in found[:REPHRASED]], seed)

    def _written(
        self, passage: str, wanted: Sequence[tuple[Fact, WrittenKind]], seed: int, temperature: float
    ) -> list[Pair]:
        found = self.scholar.write(passage, wanted, seed, temperature)
        return [Pair(q, answer, kind, fact) for (q, answer), (fact, kind) in zip(found, wanted, strict=True)]

    def _surest(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """The surest pairs of each answer of a fact, the surest of all first."""
        kept = [
            pair
            for (fact, answer), found in _by_answer(pairs).items()
            for pair in found[: self.settings.phrasings if answer == fact.answer else REVERSED]
        ]
        return tuple(sorted(kept, key=lambda pair: -pair.surety))

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


def _wanted(facts: Sequence[Fact], kinds: Sequence[WrittenKind]) -> list[tuple[Fact, WrittenKind]]:
    return [(fact, kind) for fact in facts for kind in kinds]


def _by_answer(pairs: Sequence[Pair]) -> dict[tuple[Fact, str], list[Pair]]:
    """Pairs by fact and answer, each time the surest first."""
    found: dict[tuple[Fact, str], list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: -pair.surety):
        found.setdefault((pair.fact, pair.answer), []).append(pair)
    return found


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
    """The pairs whose answer the reader comes to from the passage, and not from elsewhere."""
    agreed = _reading(passage, pairs, scholar)
    known = set(_reading(ELSEWHERE, agreed, scholar))
    return [pair for pair in agreed if pair not in known]


def _reading(passage: str, pairs: Sequence[Pair], scholar: Scholar) -> list[Pair]:
    """The pairs whose answer the reader finds in a passage."""
    found = scholar.read(passage, [pair.question for pair in pairs])
    return [pair for pair, answer in zip(pairs, found, strict=True) if same_answer(answer, pair.answer)]


def same_answer(one: str, other: str) -> bool:
    """Whether two short answers say the same: one holds the other as whole words."""
    if not one or normalise(one) == NOT_STATED:
        return False
    return hit(one, [other]) or hit(other, [one])
