"""Ensemble KL (eq. 6): several teachers with a share each, and one student.

    L = Σ_i w_i Σ_k λ_k KL( P_k(· | q_i) ‖ P_student(· | q_i) ),  Σ_k λ_k = 1

The inner sum and KL(Σ_k λ_k P_k ‖ P_student) differ by what doesn't depend on the student, so their gradients are the
same: the teachers are mixed once, into one distribution a target.

The teachers are the reader with the passage, and the promoted snapshot closed book, which knows the documents that an
update teaches anew: those that a newer one corrects, and those that stay when another is retracted. Teachers that
disagree make a student worse, and a snapshot must not vote on what was superseded since. So a teacher has a say on a
lesson only where its own greedy answer is the lesson's, and the shares of those that have are scaled to 1. The base
model is a teacher too, in every update and of general prompts (learner/rehearsal.py).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import repeat

import torch
from torch import Tensor

from learner.hand import Hand
from learner.targets import Target
from lmt2.events import UpdateRequest
from lmt2.study import prompts
from memory.versioned import VersionedModel


def build(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
    """One target a lesson, towards the mixture of those teachers that answer it rightly; else its answer alone."""
    share = hand.settings.snapshot_share
    read = list(hand.distilled(request.lessons))
    for target, recalled in zip(read, _recalled(hand, read), strict=True):
        voices = [(1 - share, target.teacher), (share, recalled)]
        yield replace(target, teacher=mixed([(λ, said) for λ, said in voices if said is not None]))


def mixed(voices: Sequence[tuple[float, Tensor]]) -> Tensor | None:
    """The log-probabilities [T, V] of a mixture, from those of each voice and its share; None without any voice.

    >>> sure, unsure = torch.tensor([[1.0, 1e-9]]).log(), torch.tensor([[0.5, 0.5]]).log()
    >>> mixed([(0.5, sure), (0.5, unsure)]).exp()
    tensor([[0.7500, 0.2500]])
    """
    heard = [(share, said) for share, said in voices if share > 0]
    if not heard:
        return None
    whole = sum(share for share, _ in heard)
    weighed = [said.float() + math.log(share / whole) for share, said in heard]
    return torch.stack(weighed).logsumexp(0).to(heard[0][1].dtype)


def _recalled(hand: Hand, targets: Sequence[Target]) -> Iterator[Tensor | None]:
    """What the promoted snapshot, closed book, says to each question; None where that is another answer."""
    served = hand.served
    if not isinstance(served, VersionedModel):  # nothing was promoted yet
        yield from repeat(None, len(targets))
        return
    asked = [[prompts.user(target.asks)] for target in targets]
    answers = [target.answer for target in targets]
    for answer, logits in zip(answers, served.answer_logits(asked, answers), strict=True):
        hand.budget.check()
        yield logits.log_softmax(-1).bfloat16() if logits.argmax(-1).tolist() == answer else None
