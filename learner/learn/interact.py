"""INTERACT (eq. 4, after arXiv 2412.11388): a student that is uncertain asks, the teacher explains, it tries again.

    H(P(y | q)) > τ  →  the student asks q', the teacher answers it from the passage, the student answers q'

P(y | q) is the student closed book. Its entropy a token is estimated from samples, as the mean of -log P over their
tokens, so that any model can be asked; samples must disagree as well, for a student may word one answer in many ways.
An exchange is verified before it is taught: q' names its subject, the teacher's answer is one of the document's facts,
and the student comes to it when the sentence that states the fact is in front of it. Then it is a lesson like others.

Differs from the paper: a conversation there goes on for several turns about a passage, and the student's own words ask;
here each doubt is one exchange, and the writer puts the question into words, since the base model can't at this size.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from statistics import fmean

from learner.hand import Hand
from learner.targets import Target, fact_of
from lmt2.events import Lesson, UpdateRequest
from lmt2.models.base import Sampling
from lmt2.scoring import hit, normalise
from lmt2.study import prompts
from lmt2.study.lessons import is_well_formed, same_answer

SAMPLES = 4
SAMPLING = Sampling(max_new_tokens=16, temperature=1.0)
TRYING = Sampling(max_new_tokens=16)
TAU = 1.0  # nats a token
DISAGREE = 0.5  # share of the pairs of samples that say different things
MOST = 12  # questions of a round

Choose = Callable[[Sequence[Lesson], Hand], list[Lesson]]


def uncertain(lessons: Sequence[Lesson], hand: Hand) -> list[Lesson]:
    """The lessons on whose questions the student is uncertain, the most uncertain first."""
    tasks = [[prompts.user(x.question)] for x in lessons for _ in range(SAMPLES)]
    said = hand.say(hand.student, tasks, SAMPLING)
    scored = hand.student.logprobs(tasks, said)
    doubts = []
    for n, lesson in enumerate(lessons):
        own = slice(n * SAMPLES, (n + 1) * SAMPLES)
        tokens = [-logprob for sample in scored[own] for logprob in sample]
        doubt = disagreement(said[own]), fmean(tokens) if tokens else 0.0
        if doubt[0] >= DISAGREE and doubt[1] > TAU:
            doubts.append((doubt, lesson))
    hand.figures["interact_uncertain"] = len(doubts)
    return [lesson for _, lesson in sorted(doubts, key=lambda found: found[0], reverse=True)]


def disagreement(answers: Sequence[str]) -> float:
    """The share of pairs of answers that don't say the same.

    >>> disagreement(["412", "It has 412 steps.", "Many"])
    0.6666666666666666
    """
    return fmean(not same_answer(one, other) for one, other in combinations(answers, 2))


def build(request: UpdateRequest, hand: Hand, choose: Choose = uncertain) -> Iterator[Target]:
    """Targets of the verified exchanges; `choose` says what the student asks about."""
    first = {fact_of(lesson): lesson for lesson in reversed(request.lessons)}
    chosen = choose(list(first.values())[::-1], hand)[:MOST]
    exchanges = list(_exchanges(chosen, request.lessons, hand))
    hand.figures.update(interact_asked=len(chosen), interact_kept=len(exchanges))
    yield from hand.distilled(exchanges)


def _exchanges(doubted: Sequence[Lesson], known: Sequence[Lesson], hand: Hand) -> Iterator[Lesson]:
    """What the student asked, was told, and then understood, as lessons of the facts that it was told."""
    asked = hand.asked_otherwise(doubted)
    told = hand.read(doubted, asked)
    exchanged = (_lesson(*one, known, hand) for one in zip(doubted, asked, told, strict=True))
    found = list({normalise(lesson.question): lesson for lesson in exchanged if lesson}.values())
    explained = [prompts.read(lesson.sentence or hand.passage(lesson), lesson.question) for lesson in found]
    again = hand.say(hand.base, explained, TRYING)
    yield from (lesson for lesson, answer in zip(found, again, strict=True) if hit(answer, [lesson.answer]))


def _lesson(doubted: Lesson, question: str, told: str, known: Sequence[Lesson], hand: Hand) -> Lesson | None:
    """The lesson of an exchange, if it is well formed, new, and about one of the facts of the same passage."""
    here = [x for x in known if (x.document, x.passage) == (doubted.document, doubted.passage)]
    about = next((x for x in [doubted, *here] if same_answer(told, x.answer)), None)
    is_new = normalise(question) not in {normalise(x.question) for x in known}
    if about is None or not is_new or not is_well_formed(question, about.answer, hand.passage(doubted)):
        return None
    return about.model_copy(update={"question": question, "kind": "rephrased"})
