"""Learning by teaching: rationales that help a weaker student are kept. A tiny model, for speed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.controls import unfiltered
from learner.budget import Budget
from learner.hand import Hand
from learner.targets import Target
from learner.teach.by_teaching import RATIONALES, build
from lmt2.errors import BudgetSpent
from lmt2.models.base import Conversation, TokenIds
from lmt2.models.local import LocalModel
from lmt2.study import prompts
from tests.support.learning import KEEPER, REQUEST, STEPS, hand, lesson, request
from tests.support.scripted import Scripted

HELPFUL = "The tower of Vell has 412 steps."


class Weaker(LocalModel):
    """A base model whom one sentence helps, and all others don't; what helps it is a sure teacher."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "float32")
        self.is_sure = True

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:  # noqa: ARG002
        """Likelier with the helpful sentence, less likely with any other."""
        texts = [conversation[-1]["content"] for conversation in conversations]
        return [[-1.0 if HELPFUL in t else -3.0 if t.endswith("?") and "\n" not in t else -4.0] for t in texts]

    def answer_logits(self, tasks: Sequence[TokenIds], answers: Sequence[TokenIds]) -> Iterator[Tensor]:  # noqa: ARG002
        """The answer on top, if it is sure."""
        for answer in answers:
            logits = torch.zeros(len(answer), 49152)
            logits[range(len(answer)), answer] = 9.0 if self.is_sure else -9.0
            yield logits


@pytest.fixture
def base(tiny_folder: Path) -> Weaker:
    return Weaker(tiny_folder)


def tutor(*rationales: str) -> Scripted:
    """Says these in turn."""
    said = iter(rationales * 100)
    return Scripted(lambda _: next(said))


def at_hand(base: LocalModel, *rationales: str, **settings: Any) -> Hand:
    return hand(base, learnt=tutor(*rationales), **settings)


def targets(base: LocalModel, *rationales: str) -> list[Target]:
    return list(build(request(lesson(STEPS, "412")), at_hand(base, *rationales)))


def test_the_rationale_that_helps_most_is_distilled(base: Weaker) -> None:
    (target,) = targets(base, "Because.", HELPFUL, "It is tall.")
    assert target.prompt == base.encode([prompts.user(STEPS)]), "the question is asked without it"
    assert (target.asks, target.teaches) == (STEPS, "412")
    assert target.teacher is not None
    assert target.teacher.argmax(-1).tolist() == target.answer


def test_what_helps_nobody_is_not_learnt_from(base: Weaker) -> None:
    at = at_hand(base, "Because.", "It is tall.", "Who knows.")
    assert list(build(REQUEST, at)) == []
    assert at.figures["rationales_kept"] == 0
    assert at.figures["rationales"] == RATIONALES * (len(KEEPER) + 1)


def test_a_student_that_errs_even_so_leaves_the_answer_itself(base: Weaker) -> None:
    base.is_sure = False
    (target,) = targets(base, HELPFUL)
    assert target.teacher is None
    assert target.answer == [*base.encode_text("412"), base.tokenizer.eos_token_id]


def test_a_gap_is_not_explained(base: Weaker) -> None:
    gap = lesson("The Vell tower has ___ steps.", "412").model_copy(update={"kind": "gap"})
    assert list(build(request(gap), at_hand(base, HELPFUL))) == []


def test_its_control_learns_from_any_rationale(base: Weaker) -> None:
    at = at_hand(base, "Because.", HELPFUL, "It is tall.")
    (target,) = build(request(lesson(STEPS, "412")), at, choose=unfiltered)
    assert target.teaches == "412"
    assert list(build(request(lesson(STEPS, "412")), at_hand(base, "Because."))) == []


def test_it_ends_when_the_budget_does_with_what_it_has(base: Weaker) -> None:
    at = at_hand(base, HELPFUL, budget_tokens=10_000)
    found = build(REQUEST, replace(at, budget=Budget(at.settings)))
    assert next(found).teaches == "Ida Brandt"
    spent = at_hand(base, HELPFUL, budget_tokens=1)
    with pytest.raises(BudgetSpent):
        list(build(REQUEST, spent))
