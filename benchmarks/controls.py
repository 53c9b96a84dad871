"""What each method of learning is held against: the same but for what makes it that method."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from learner.hand import Hand
from learner.master.reflection import Mistake
from learner.master.yoda import STAGES
from learner.targets import Target, fact_of, target_of
from lmt2.events import Lesson, UpdateRequest
from lmt2.study.lessons import same_answer


def at_random(lessons: Sequence[Lesson], hand: Hand) -> list[Lesson]:
    """INTERACT's control: the student asks about any facts, whether it is uncertain or not."""
    return random.Random(hand.settings.seed).sample(list(lessons), len(lessons))


def unverified(lesson: Lesson, answer: str, passage: str) -> bool:  # noqa: ARG001
    """YODA's first control: whatever the loop ends with is trained on."""
    return True


def teacher_answers(request: UpdateRequest, hand: Hand) -> Iterator[Target]:
    """YODA's second control: the same questions in the same order, and the reader's plain answers to them."""
    for stage, kinds in enumerate(STAGES):
        lessons = list({fact_of(x): x for x in request.lessons if x.kind in kinds}.values())
        for lesson, answer in zip(lessons, hand.read(lessons, [x.question for x in lessons]), strict=True):
            if same_answer(answer, lesson.answer):
                yield replace(target_of(hand.base, lesson, answer), since=stage / len(STAGES))


def unfiltered(hand: Hand, lesson: Lesson, rationales: Sequence[str]) -> str:  # noqa: ARG001
    """Learning by teaching's control: the first rationale, whether it helps anybody or not."""
    return rationales[0]


def shuffled(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Reflection's control: each question with the answers that belong to the next one."""
    return [replace(one, question=mistakes[n - 1].question) for n, one in enumerate(mistakes)]
