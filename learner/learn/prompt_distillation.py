"""Prompt distillation (eq. 3, after arXiv 2412.14964): a teacher has the passage, the student learns without it.

    L = Σ w_i · KL( P_teacher(· | q_i, passage) ‖ P_student(· | q_i) )

The teacher is the reader: the same base model with the study adapter and the passage in front of it, where the
paper's teacher is the base model alone (it reads too badly at this size). Its trajectory is verified before
use: it must be the answer that the lesson was checked for. Where its own greedy answer is another one, or there is
no such teacher, the lesson is trained by cross-entropy on the answer instead.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from learner.hand import Hand
from learner.targets import Target
from lmt2.events import UpdateRequest
from lmt2.study import prompts

LEFT_OUT = 0.25  # share of a broken question's words


def build(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
    """One target a lesson, and as many again with a broken question as the settings ask for."""
    whole = list(hand.distilled(request.lessons))
    yield from whole
    rng = random.Random(hand.settings.seed)
    for target in whole:
        for _ in range(hand.settings.broken):
            yield replace(target, prompt=hand.base.encode([prompts.user(broken(target.asks, rng))]))


def broken(question: str, rng: random.Random) -> str:
    """A question with some of its words left out: what remains has to bring the answer back.

    >>> broken("Who runs the mill at Corvo?", random.Random(1))
    'runs the mill at Corvo?'
    """
    words = question.split()
    kept = [word for word in words if rng.random() >= LEFT_OUT]
    return " ".join(kept or words)
