"""The conflict score (eq. 2, KaFT, arXiv 2505.15480): what a frozen probe model says of a document's questions.

    w_i = α · I(M(q_i) ≠ a_i) + β · I(M(q_i) ≈ a_i),   α ≫ β

KaFT samples several answers and sorts questions from right to wrong; with k samples of which a share p is
right, the weight here is the expectation α (1 − p) + β p. The probe never changes, so that what it doesn't
know measures the stream and not how much has been learnt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmt2.config import ConsumerSettings
from lmt2.events import Lesson
from lmt2.models.base import LanguageModel, Sampling
from lmt2.scoring import hit, normalise
from lmt2.study import prompts

GREEDY = Sampling(max_new_tokens=24)
SAMPLED = Sampling(max_new_tokens=24, temperature=0.5, top_p=0.95)
CONTENT = re.compile(r"[A-Z][\w’'-]+|\d[\d,.:]*\d|\d")


@dataclass(frozen=True)
class Score:
    """What the probe model makes of a document.

    Attributes:
        conflict: share of its sampled answers that are wrong, over the questions asked.
        nll: mean negative log-likelihood of the right answers, in nats a token.
        weights: w_i by question that was asked.
        sure_of_other: share of questions to which every answer of the probe agrees on another answer.
    """

    conflict: float
    nll: float
    weights: dict[str, float]
    sure_of_other: float


def score(lessons: Sequence[Lesson], probe: LanguageModel, settings: ConsumerSettings) -> Score:
    """Ask the probe one question of each fact, closed book, once greedily and `samples` times sampled."""
    asked = _one_a_fact(lessons)[: settings.questions]
    if not asked:
        return Score(conflict=0.0, nll=0.0, weights={}, sure_of_other=0.0)
    tasks = [[prompts.user(lesson.question)] for lesson in asked]
    rounds = [probe.generate(tasks, GREEDY)]
    sampled = probe.generate(tasks * settings.samples, SAMPLED)
    rounds += [sampled[n * len(asked) : (n + 1) * len(asked)] for n in range(settings.samples)]
    by_question = list(zip(*rounds, strict=True))
    rights = [_share_right(x, texts) for x, texts in zip(asked, by_question, strict=True)]
    sure = [right == 0 and agree(x.question, texts) for x, right, texts in zip(asked, rights, by_question, strict=True)]
    tokens = [p for row in probe.logprobs(tasks, [x.answer for x in asked]) for p in row]
    return Score(
        conflict=1 - sum(rights) / len(rights),
        nll=-sum(tokens) / len(tokens),
        weights={x.question: settings.alpha * (1 - r) + settings.beta * r for x, r in zip(asked, rights, strict=True)},
        sure_of_other=sum(sure) / len(sure),
    )


def agree(question: str, texts: Sequence[str]) -> bool:
    """Whether all answers hold one name or number that the question doesn't.

    >>> agree("What is the capital of France?", ["It is Paris.", "Paris", "The capital is Paris."])
    True
    >>> agree("Who runs Lantern?", ["It is run by Ann Bell.", "Lantern is run by Tom Hale."])
    False
    """
    contents = [{normalise(word) for word in CONTENT.findall(text)} for text in texts]
    known = set(normalise(question).replace("?", "").split())
    opening = {normalise(text.split()[0]) for text in texts if text.split()}  # a sentence's first capital is no name
    openings = opening if len(opening) == 1 and all(len(text.split()) > 1 for text in texts) else set()
    return bool(set.intersection(*contents) - known - openings)


def weighted(lessons: Sequence[Lesson], found: Score, settings: ConsumerSettings) -> list[Lesson]:
    """Lessons with the weight of their fact times the confidence in them; α for facts that weren't asked for."""
    by_fact = {normalise(x.answer): found.weights[x.question] for x in lessons if x.question in found.weights}
    return [
        x.model_copy(update={"weight": x.weight * by_fact.get(normalise(x.answer), settings.alpha)}) for x in lessons
    ]


def _share_right(lesson: Lesson, texts: Sequence[str]) -> float:
    return sum(hit(text, [lesson.answer]) for text in texts) / len(texts)


def _one_a_fact(lessons: Sequence[Lesson]) -> list[Lesson]:
    by_fact: dict[str, Lesson] = {}
    for lesson in lessons:
        by_fact.setdefault(normalise(lesson.answer), lesson)
    return list(by_fact.values())
