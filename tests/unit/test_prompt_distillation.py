"""Prompt distillation: the teacher reads, the student doesn't, and only a teacher that is right is listened to."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from learner.learn.prompt_distillation import broken, build
from learner.targets import Target
from lmt2.events import Document, Lesson
from lmt2.models.local import LocalModel
from lmt2.study import prompts
from lmt2.study.passages import passages
from tests.support.learning import REQUEST, Teacher, hand

LONG = " ".join(f"The ferry to Vell waits for guest number {n}." for n in range(40))
VELL = Document(id="vell", title="Vell", text=f"Ida Brandt keeps the lamp. {LONG} The harbour was dredged in 1911.")
CORVO = Document(id="corvo", text="Corvo has 412 steps.")


@pytest.fixture
def teacher(tiny_folder: Path) -> Teacher:
    return Teacher(tiny_folder)


def lesson(question: str, answer: str, document: str = "vell", passage: int = 0, weight: float = 1.0) -> Lesson:
    return Lesson(question=question, answer=answer, kind="direct", document=document, passage=passage, weight=weight)


KEEPER, YEAR = lesson("Who keeps the lamp?", "Ida Brandt", weight=0.55), lesson("When was it?", "1911", passage=2)
STEPS = lesson("How many steps?", "412", document="corvo", passage=9)


def targets(
    lessons: Sequence[Lesson], student: LocalModel, teacher: LocalModel | None, copies: int = 0
) -> list[Target]:
    asked = REQUEST.model_copy(update={"documents": (VELL, CORVO), "lessons": tuple(lessons)})
    return list(build(asked, hand(student, reader=teacher, documents=asked.documents, broken=copies)))


def test_the_teacher_has_the_lessons_own_passage_and_the_student_has_none(tiny: LocalModel, teacher: Teacher) -> None:
    found = targets([KEEPER, YEAR, STEPS], tiny, teacher)
    texts = passages(VELL)
    assert len(texts) == 3
    read = [texts[0], texts[2], CORVO.text]
    for one, task, passage, asked in zip(found, teacher.tasks, read, (KEEPER, YEAR, STEPS), strict=True):
        assert task == tiny.decode(tiny.encode(prompts.read(passage, asked.question)))
        assert one.prompt == tiny.encode([prompts.user(asked.question)])


def test_an_answer_ends_its_turn_and_carries_its_weight_and_fact(tiny: LocalModel, teacher: Teacher) -> None:
    (one,) = targets([KEEPER], tiny, teacher)
    assert one.answer == [*tiny.encode_text("Ida Brandt"), tiny.tokenizer.eos_token_id]
    assert (one.weight, one.fact) == (0.55, "vell ida brandt")
    assert (one.asks, one.teaches) == ("Who keeps the lamp?", "Ida Brandt")


def test_a_verified_teacher_gives_its_whole_distribution(tiny: LocalModel, teacher: Teacher) -> None:
    (one,) = targets([KEEPER], tiny, teacher)
    assert one.teacher is not None
    assert one.teacher.shape == (len(one.answer), 49152)
    (logits,) = teacher.answer_logits([tiny.encode(prompts.read(passages(VELL)[0], KEEPER.question))], [one.answer])
    torch.testing.assert_close(one.teacher.float(), logits.log_softmax(-1), rtol=0.01, atol=0.05)


def test_a_teacher_whose_greedy_answer_is_another_one_is_not_listened_to(tiny: LocalModel, teacher: Teacher) -> None:
    teacher.wrong = {KEEPER.question}
    found = targets([KEEPER, STEPS], tiny, teacher)
    assert [one.teacher is None for one in found] == [True, False]
    assert found[0].answer == [*tiny.encode_text("Ida Brandt"), tiny.tokenizer.eos_token_id]


def test_a_passage_that_the_text_no_longer_has_gives_way_to_the_first(tiny: LocalModel, teacher: Teacher) -> None:
    targets([lesson("Who keeps the lamp?", "Ida Brandt", passage=50)], tiny, teacher)
    assert "Ida Brandt keeps the lamp." in teacher.tasks[0]


def test_broken_copies_are_trained_beside_the_question_with_the_same_answer(tiny: LocalModel) -> None:
    found = targets([KEEPER, STEPS], tiny, None, copies=2)
    originals, copies = found[:2], found[2:]
    assert [copy.answer for copy in copies] == [original.answer for original in originals for _ in range(2)]
    assert all(
        len(c.prompt) <= len(o.prompt) for c, o in zip(copies, [o for o in originals for _ in "ab"], strict=True)
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_question_keeps_some_words_in_order(seed: int) -> None:
    words = broken(KEEPER.question, random.Random(seed)).split()
    rest = iter(KEEPER.question.split())
    assert words
    assert all(word in rest for word in words)
