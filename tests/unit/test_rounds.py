"""Rounds of an update on a tiny model: whose expert learns what, and what a later round's methods see."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

import pytest
import torch

from learner.budget import Budget
from learner.hand import Figures, Hand
from learner.keys import keys_for, near_experts
from learner.methods import METHODS, Build, build_all
from learner.rounds import Rounds
from learner.targets import Target, target_of
from learner.update import Report, Training
from lmt2.config import LearnerSettings, Method
from lmt2.errors import BudgetSpent, TrainingFailed
from lmt2.events import UpdateRequest
from lmt2.models.base import Sampling
from lmt2.models.local import LocalModel
from lmt2.study import prompts
from lmt2.study.lessons import LessonWriter
from memory.routing import nearest_experts
from memory.shards import SHARED, Shard
from tests.support.learning import KEEPER, REQUEST, SETTINGS, STEPS, VELL, hand, lesson
from tests.support.tiny import WordEncoder, calling

ONE = Sampling(max_new_tokens=3)


def as_it_is(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
    """A method: every lesson, its answer alone."""
    for one in request.lessons:
        yield target_of(hand.base, one)


def nothing(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
    """A method that finds nothing to teach."""
    yield from ()


def learn(
    tiny: LocalModel, settings: LearnerSettings = SETTINGS, methods: Sequence[Build] = (as_it_is,)
) -> tuple[Shard, Figures]:
    writer: LessonWriter = hand(tiny).writer
    return Rounds(methods, tiny, None, writer, [], settings).learn(REQUEST, lambda *_: None, lambda: tiny)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Target], int]]:
    """Every round of training: its targets and its steps."""
    seen: list[tuple[list[Target], int]] = []
    original = Training.run

    def run(self: Training, lessons: Sequence[Target], steps: int, report: Report) -> None:
        seen.append((list(lessons), steps))
        original(self, lessons, steps, report)

    monkeypatch.setattr(Training, "run", run)
    return seen


def test_the_table_has_the_methods_that_the_configuration_knows() -> None:
    assert set(METHODS) == set(get_args(Method))


def test_whatever_method_made_a_target_the_expert_of_its_answer_learns_it(
    tiny: LocalModel, runs: list[tuple[list[Target], int]]
) -> None:
    def in_a_sentence(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
        asked = lesson("How high is the Vell tower?", "412")
        yield target_of(hand.base, asked, answer="It has 412 steps.")

    learn(tiny, methods=(as_it_is, in_a_sentence))
    ((targets, steps),) = runs
    assert [target.expert for target in targets] == [0, 0, 0, 1, 1]
    assert [target.others for target in targets] == [(1,), (1,), (1,), (0,), (0,)]
    assert steps == 2 + 2


def test_a_later_round_shares_the_steps_and_its_methods_ask_the_shard_in_training(
    tiny: LocalModel, runs: list[tuple[list[Target], int]]
) -> None:
    said: list[list[str]] = []

    def listens(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
        said.append(hand.say(hand.student, [[prompts.user(question)] for question in KEEPER], ONE))
        yield from as_it_is(request, hand)

    wild = SETTINGS.model_copy(update={"rounds": 2, "steps": 10, "learning_rate": 5e-2})
    _, figures = learn(tiny, wild, methods=(listens,))
    assert [steps for _, steps in runs] == [6, 6]
    assert said[0] == tiny.generate([[prompts.user(question)] for question in KEEPER], ONE)
    assert said[1] != said[0]
    assert (figures["facts"], figures["steps"]) == (2, 12)
    assert figures["spent_tokens"] == sum(len(tiny.encode_text(text)) for texts in said for text in texts)


def test_an_update_that_nothing_came_of_fails_and_names_the_methods(tiny: LocalModel) -> None:
    with pytest.raises(TrainingFailed, match=r"learner\.methods prompt_distillation"):
        learn(tiny, methods=(nothing,))


@pytest.mark.parametrize("bound", ["budget_tokens", "budget_teacher_calls", "budget_seconds"])
def test_a_method_whose_budget_is_spent_leaves_what_it_has_and_the_update_goes_on(tiny: LocalModel, bound: str) -> None:
    def endless(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
        while True:
            yield target_of(hand.base, request.lessons[0])
            hand.say(hand.student, [[prompts.user(STEPS)]], ONE)
            hand.read(request.lessons[:1], [STEPS])

    at_hand = replace(hand(tiny), budget=Budget(SETTINGS.model_copy(update={bound: 1e-9})))
    found = build_all([endless, as_it_is], REQUEST, at_hand)
    assert [target.asks for target in found[-4:]] == [x.question for x in REQUEST.lessons]
    assert len(found) > len(REQUEST.lessons)
    assert at_hand.figures["budget"] == f"the methods have spent learner.{bound} = 1e-09"
    assert at_hand.budget.figures["spent_seconds"] > 0
    with pytest.raises(BudgetSpent), at_hand.budget.at_work():
        at_hand.read(REQUEST.lessons, KEEPER)


def test_each_answer_has_an_expert_that_is_called_by_what_states_it(tiny: LocalModel) -> None:
    shard, _ = learn(tiny)
    assert shard.ranks.tolist() == [SHARED, SHARED, 0, 1]
    facts = ["Ida Brandt: Ida Brandt keeps the lamp at Vell.", "412: The Vell tower has 412 steps."]
    assert torch.equal(shard.keys.facts, WordEncoder().by_fact(facts))
    assert shard.keys.experts.tolist() == [0, 1]
    assert shard.keys.answers == ("ida brandt", "412")
    assert nearest_experts(["Who keeps the lamp?", "How many steps?"], shard.keys, WordEncoder()) == [0, 1]


def test_facts_with_one_answer_share_an_expert() -> None:
    other = lesson("Who lives at Vell?", "Ida Brandt").model_copy(update={"sentence": "Ida Brandt lives there."})
    keys = keys_for([VELL], [*REQUEST.lessons, other], WordEncoder())
    assert keys.experts.tolist() == [0, 1, 0]


def test_a_lesson_may_be_sent_to_the_experts_of_its_nearest_neighbours() -> None:
    keys = calling(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0]]), [0, 1, 2, 3, 0])
    assert near_experts(torch.tensor([1.0, 0.0]), 0, keys) == (2, 3, 1)
    assert near_experts(torch.tensor([1.0, 0.0]), 0, calling(torch.eye(2), [0, 0])) == ()
