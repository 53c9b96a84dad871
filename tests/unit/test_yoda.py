"""The YODA loop: what is right in the end is trained on, nothing else. Tiny and scripted models."""

from pathlib import Path

import pytest

from benchmarks.controls import teacher_answers, unverified
from learner.hand import Hand
from learner.master.yoda import build
from lmt2.events import LessonKind
from lmt2.study.prompts import NOT_STATED
from tests.support.learning import KEEPER, REQUEST, STEPS, hand, lesson, request
from tests.support.scripted import Book, Scripted
from tests.support.talking import Talker

BOOK = {"412": [STEPS], "Ida Brandt": list(KEEPER)}
RIGHT = "The Vell tower has 412 steps."


def at_hand(folder: Path, first: str, revised: str, **reads: str) -> Hand:
    """A student with its first attempt, and what comes of critiques."""
    book = Book(BOOK, reads={STEPS: reads.get("read", "412")})
    base = Talker(folder, lambda _: revised)
    return hand(base, scholar=book.scholar, learnt=Scripted(lambda _: first))


def taught(at: Hand) -> list[str]:
    return [at.base.decode(target.answer) for target in build(request(lesson(STEPS, "412")), at)]


def test_a_wrong_attempt_is_revised_by_what_the_passage_states(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder, "It has nine steps.", RIGHT)
    assert taught(at) == [RIGHT]
    assert isinstance(at.base, Talker)
    (critique,) = at.base.asked
    assert "That is not right. The Vell tower has 412 steps." in critique
    assert (at.figures["yoda_tried"], at.figures["yoda_kept"]) == (1, 1)


def test_a_right_attempt_needs_no_critique(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder, RIGHT, "never asked")
    assert taught(at) == [RIGHT]
    assert isinstance(at.base, Talker)
    assert at.base.asked == []


@pytest.mark.parametrize("last", ["It has nine steps.", "The Vell tower has had 412 steps since 1850."])
def test_an_answer_that_never_verifies_is_not_trained_on(tiny_folder: Path, last: str) -> None:
    at = at_hand(tiny_folder, "It has nine steps.", last)
    assert taught(at) == []
    assert (at.figures["yoda_tried"], at.figures["yoda_kept"]) == (1, 0)


def test_without_a_teacher_that_knows_there_is_no_critique(tiny_folder: Path) -> None:
    assert taught(at_hand(tiny_folder, "It has nine steps.", RIGHT, read=NOT_STATED)) == []


def test_the_curriculum_goes_from_basic_to_rephrased_to_composed(tiny_folder: Path) -> None:
    kinds: tuple[LessonKind, ...] = ("direct", "rephrased", "composed")
    asked = request(*(lesson(question, "Ida Brandt", kind) for question, kind in zip(KEEPER, kinds, strict=True)))
    at = at_hand(tiny_folder, "Ida Brandt does.", "")
    assert [target.since for target in build(asked, at)] == pytest.approx([0, 1 / 3, 2 / 3])


def test_its_controls_train_on_everything_and_on_the_teachers_words(tiny_folder: Path) -> None:
    at = at_hand(tiny_folder, "It has nine steps.", "It has ten steps.")
    (any_last,) = build(request(lesson(STEPS, "412")), at, keep=unverified)
    assert at.base.decode(any_last.answer) == "It has ten steps."
    plain = {target.asks: at.base.decode(target.answer) for target in teacher_answers(REQUEST, at)}
    assert plain[STEPS] == "412"
