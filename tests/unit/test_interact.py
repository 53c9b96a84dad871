"""INTERACT: who is uncertain asks, and only what was answered and understood is taught. Tiny and scripted models."""

from itertools import cycle
from pathlib import Path

import pytest

from benchmarks.controls import at_random
from learner.hand import Hand
from learner.learn.interact import build
from lmt2.errors import BudgetSpent
from lmt2.models.base import Conversation
from lmt2.study.prompts import NOT_STATED
from tests.support.learning import KEEPER, REQUEST, STEPS, hand
from tests.support.scripted import Book, Scripted
from tests.support.talking import Talker

OTHERWISE = "At Vell, how many stairs has the tower?"
PHRASINGS = {"412": [OTHERWISE], "Ida Brandt": ["Whose work is the lamp at Vell?"]}


def student(*, is_unsure: bool = True) -> Scripted:
    """Sure of the keeper, and of the steps or not."""
    guesses = cycle(["412", "Nine", "Many of them", "7"])

    def says(conversation: Conversation) -> str:
        return next(guesses) if is_unsure and conversation[-1]["content"] == STEPS else "Ida Brandt"

    return Scripted(says, logprob=-2.0)


def at_hand(folder: Path, understands: bool = True, unsure: bool = True, **scripted: object) -> Hand:
    base = Talker(folder, lambda _: "It has 412 steps." if understands else "I see.")
    book = Book(PHRASINGS, **scripted)  # type: ignore[arg-type]
    return hand(base, scholar=book.scholar, learnt=student(is_unsure=unsure))


def test_what_the_student_is_uncertain_of_is_asked_about_and_taught(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder)
    (target,) = build(REQUEST, at)
    assert (target.asks, target.teaches) == (OTHERWISE, "412")
    assert (at.figures["interact_uncertain"], at.figures["interact_asked"], at.figures["interact_kept"]) == (1, 1, 1)


def test_a_student_that_is_sure_asks_nothing(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder, unsure=False)
    assert list(build(REQUEST, at)) == []
    assert at.figures["interact_asked"] == 0


def test_what_the_passage_does_not_say_is_not_taught(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder, reads={OTHERWISE: NOT_STATED})
    assert list(build(REQUEST, at)) == []
    assert at.figures["interact_kept"] == 0


def test_an_answer_that_the_student_does_not_understand_is_not_taught(tiny_folder: Path) -> None:
    assert list(build(REQUEST, at_hand(tiny_folder, understands=False))) == []


def test_the_control_asks_whether_it_is_uncertain_or_not(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder, unsure=False)
    assert [target.asks for target in build(REQUEST, at, choose=at_random)] == [OTHERWISE]
    assert at.figures["interact_asked"] == 2


def test_a_spent_budget_ends_it(tiny_folder: Path) -> None:
    spent = hand(Talker(tiny_folder, lambda _: ""), learnt=student(), budget_tokens=1)
    spent.budget.count(tokens=1)
    with pytest.raises(BudgetSpent, match="budget_tokens"):
        list(build(REQUEST, spent))


def test_the_students_own_questions_are_the_requests(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder)
    list(build(REQUEST, at))
    assert isinstance(at.learnt, Scripted)
    assert set(at.learnt.asked) == {KEEPER[0], STEPS}
