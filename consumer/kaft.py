"""The conflict score (eq. 2, KaFT, arXiv 2505.15480): what a frozen probe model says of a document's questions.

    w_i = α · I(M(q_i) ≠ a_i) + β · I(M(q_i) ≈ a_i),   α ≫ β

KaFT samples several answers and sorts questions from right over "might be right" to wrong. Here both indicators are a
number in 0…1: two thirds of the conflict are the share of sampled answers that are wrong, one third is how little the
question does for the likelihood of the right answer, which tells what the model half knows from what it can't know. The
probe never changes, so that what it doesn't know measures the stream and not how much has been learnt.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lmt2.config import ConsumerSettings
from lmt2.events import Lesson
from lmt2.models.base import LanguageModel, Sampling
from lmt2.scoring import hit, normalise
from lmt2.study import prompts

GREEDY = Sampling(max_new_tokens=24)
SAMPLED = Sampling(max_new_tokens=24, temperature=0.5, top_p=0.95)
BRIEFLY = "Answer in a few words."  # so that an answer doesn't begin by repeating the question
NOTHING = "What is it?"  # what an answer is as likely after as it is by itself
BY_LIKELIHOOD = 1 / 3  # of a question's conflict
HALFWAY = -3.0  # nats a token: half way between what is known and what is new (docs/experiments.md)
OPENERS = {"an", "he", "if", "in", "it", "its", "she", "that", "the", "there", "they", "this"}  # capitals, no names
CONTENT = re.compile(r"[A-Z][\w’'-]+|\d[\d,.:]*\d|\d")


@dataclass(frozen=True)
class Score:
    """What the probe model makes of a document.

    Attributes:
        conflict: mean conflict of the questions asked, 0…1.
        nll: mean of their answers' negative log-likelihoods, as in `Asked`.
        weights: w_i by question that was asked.
        sure_of_other: share of questions to which every answer of the probe agrees on another answer.
    """

    conflict: float
    nll: float
    weights: dict[str, float]
    sure_of_other: float


@dataclass(frozen=True)
class Asked:
    """A question as the probe answers it, closed book.

    Attributes:
        lesson: the question with its right answer.
        texts: the probe's answers, the greedy one first.
        nll: negative log-likelihood of the right answer less the same after a question about nothing, in nats a token.
            By itself it says more of an answer's tokens than of what is known.
    """

    lesson: Lesson
    texts: tuple[str, ...]
    nll: float

    @property
    def right(self) -> float:
        """Share of the answers that are right."""
        return sum(hit(text, [self.lesson.answer]) for text in self.texts) / len(self.texts)

    @property
    def conflict(self) -> float:
        """0 for what the probe knows, 1 for what it can't know; by its answers alone where likelihoods are broken."""
        wrong = 1 - self.right
        if not math.isfinite(self.nll):
            return wrong
        unlikely = (1 + math.tanh((self.nll - HALFWAY) / 2)) / 2
        return (1 - BY_LIKELIHOOD) * wrong + BY_LIKELIHOOD * unlikely

    @property
    def is_sure_of_other(self) -> bool:
        """Whether every answer is wrong, and the same other one."""
        return self.right == 0 and agree(self.lesson.question, self.texts)


def score(lessons: Sequence[Lesson], probe: LanguageModel, settings: ConsumerSettings) -> Score:
    """What the probe makes of a document, by one question of each fact."""
    return summed_up(ask(_one_a_fact(lessons)[: settings.questions], probe, settings.samples), settings)


def summed_up(asked: Sequence[Asked], settings: ConsumerSettings) -> Score:
    """The score of a document by its questions."""
    if not asked:
        return Score(conflict=0.0, nll=0.0, weights={}, sure_of_other=0.0)
    return Score(
        conflict=fmean(x.conflict for x in asked),
        nll=fmean(x.nll for x in asked),
        weights={x.lesson.question: _between(settings, x.conflict) for x in asked},
        sure_of_other=fmean(x.is_sure_of_other for x in asked),
    )


def ask(lessons: Sequence[Lesson], probe: LanguageModel, samples: int) -> list[Asked]:
    """Ask the probe each question, closed book, once greedily and so often sampled."""
    if not lessons:
        return []
    tasks = [[prompts.user(lesson.question)] for lesson in lessons]
    rounds = [probe.generate(tasks, GREEDY)]
    sampled = probe.generate(tasks * samples, SAMPLED)
    rounds += [sampled[n * len(tasks) : (n + 1) * len(tasks)] for n in range(samples)]
    answers = [lesson.answer for lesson in lessons]
    likely = probe.logprobs([[prompts.user(f"{lesson.question} {BRIEFLY}")] for lesson in lessons], answers)
    alone = probe.logprobs([[prompts.user(f"{NOTHING} {BRIEFLY}")]] * len(lessons), answers)
    return [
        Asked(lesson, texts, fmean(before) - fmean(after))
        for lesson, texts, before, after in zip(lessons, zip(*rounds, strict=True), alone, likely, strict=True)
    ]


def _between(settings: ConsumerSettings, conflict: float) -> float:
    return settings.alpha * conflict + settings.beta * (1 - conflict)


def agree(question: str, texts: Sequence[str]) -> bool:
    """Whether all answers hold one name or number that the question doesn't.

    >>> agree("What is the capital of France?", ["It is Paris.", "Paris", "The capital is Paris."])
    True
    >>> agree("Who runs Lantern?", ["It is run by Ann Bell.", "Lantern is run by Tom Hale."])
    False
    """
    contents = [{normalise(word) for word in CONTENT.findall(text)} for text in texts]
    asked = {normalise(word) for word in CONTENT.findall(question)} | set(normalise(question).rstrip("?").split())
    opening = {normalise(text.split()[0]) for text in texts if text.split()}  # a sentence's first capital is no name
    openings = opening if len(opening) == 1 and all(len(text.split()) > 1 for text in texts) else set()
    return bool(set.intersection(*contents) - asked - openings - OPENERS)


def weighted(lessons: Sequence[Lesson], found: Score, settings: ConsumerSettings) -> list[Lesson]:
    """Lessons with the weight of their fact times the confidence in them; α for facts that weren't asked for."""
    by_fact = {normalise(x.answer): found.weights[x.question] for x in lessons if x.question in found.weights}
    return [
        x.model_copy(update={"weight": x.weight * by_fact.get(normalise(x.answer), settings.alpha)}) for x in lessons
    ]


def _one_a_fact(lessons: Sequence[Lesson]) -> list[Lesson]:
    by_fact: dict[str, Lesson] = {}
    for lesson in lessons:
        by_fact.setdefault(normalise(lesson.answer), lesson)
    return list(by_fact.values())
