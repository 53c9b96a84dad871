"""Reflection: what the student gets wrong stands before the passage for the rest. Tiny and scripted models."""

from pathlib import Path

from benchmarks.controls import shuffled
from learner.hand import Hand
from learner.master.reflection import Mistake, build
from tests.support.learning import REQUEST, Teacher, hand
from tests.support.scripted import Book, Scripted
from tests.support.talking import Talker

PRACTICE = {"412": ["At Vell, how many stairs has the tower?"], "Ida Brandt": ["Whose work is the lamp at Vell?"]}
THOUGHT = "I said nine, but it is 412."


def at_hand(folder: Path, turn: int, says: str = "Nine") -> tuple[Hand, Talker, Teacher]:
    base, reader = Talker(folder, lambda _: THOUGHT), Teacher(folder)
    student = Scripted(lambda c: says if "stairs" in c[-1]["content"] else "Ida Brandt")
    return hand(base, Book(PRACTICE).scholar, reader, student, turn=turn), base, reader


def test_in_the_first_round_there_is_nothing_to_look_back_at(tiny_folder: Path) -> None:
    at, base, reader = at_hand(tiny_folder, turn=0)
    assert len(list(build(REQUEST, at))) == len(REQUEST.lessons)
    assert base.asked == []
    assert not any(THOUGHT in task for task in reader.tasks)


def test_a_mistake_is_put_into_words_and_the_teacher_has_them(tiny_folder: Path) -> None:
    at, base, reader = at_hand(tiny_folder, turn=1)
    assert len(list(build(REQUEST, at))) == len(REQUEST.lessons)
    (asked,) = base.asked
    assert "stairs has the tower?\nYour answer: Nine\nRight answer: 412" in asked
    assert "Whose work" not in asked, "that was right"
    assert all(THOUGHT in task for task in reader.tasks)
    assert at.figures["reflection_1_vell"] == THOUGHT, "it is stored with the update"


def test_who_got_everything_right_has_nothing_to_reflect_on(tiny_folder: Path) -> None:
    at, base, reader = at_hand(tiny_folder, turn=1, says="412")
    list(build(REQUEST, at))
    assert base.asked == []
    assert not any(THOUGHT in task for task in reader.tasks)


def test_the_practice_questions_are_not_trained_on(tiny_folder: Path) -> None:
    at, _, _ = at_hand(tiny_folder, turn=1)
    assert {target.asks for target in build(REQUEST, at)} == {lesson.question for lesson in REQUEST.lessons}


def test_the_control_shuffles_what_was_got_wrong() -> None:
    mistakes = [Mistake("Who?", "Tom", "Ida"), Mistake("How many?", "9", "412")]
    assert shuffled(mistakes) == [Mistake("How many?", "Tom", "Ida"), Mistake("Who?", "9", "412")]
