"""Prompt distillation (eq. 3, after arXiv 2412.14964): a teacher has the passage, the student learns without it.

    L = Σ w_i · KL( P_teacher(· | q_i, passage) ‖ P_student(· | q_i) )

The teacher is the reader: the same base model with the study adapter and the passage in front of it, where the
paper's teacher is the base model alone (it reads too badly at this size). Its trajectory is verified before
use: it must be the answer that the lesson was checked for. Where its own greedy answer is another one, or there is
no such teacher, the lesson is trained by cross-entropy on the answer instead.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat

from torch import Tensor

from learner.targets import Target
from lmt2.events import Document, Lesson
from lmt2.models.base import TokenIds
from lmt2.models.local import LocalModel
from lmt2.study import prompts
from lmt2.study.passages import passages


def targets(
    documents: Sequence[Document], lessons: Sequence[Lesson], student: LocalModel, teacher: LocalModel | None
) -> Iterator[Target]:
    """One target a lesson: the teacher's distributions where it answers so greedily, else the answer alone."""
    stop = student.encode_text(student.tokenizer.eos_token)
    answers = [student.encode_text(lesson.answer) + stop for lesson in lessons]
    taught = _distributions(documents, lessons, answers, teacher) if teacher else repeat(None)
    for lesson, answer, distribution in zip(lessons, answers, taught, strict=False):
        yield Target(
            prompt=question_ids(student, lesson.question),
            answer=answer,
            weight=lesson.weight,
            fact=fact_of(lesson),
            teacher=distribution,
        )


def _distributions(
    documents: Sequence[Document], lessons: Sequence[Lesson], answers: Sequence[TokenIds], teacher: LocalModel
) -> Iterator[Tensor | None]:
    """The teacher's log-probabilities [T, V] of each answer, None where its own answer is another one."""
    texts = {document.id: passages(document) for document in documents}
    tasks = [teacher.encode(prompts.read(_passage(texts, lesson), lesson.question)) for lesson in lessons]
    for answer, logits in zip(answers, teacher.answer_logits(tasks, answers), strict=True):
        yield logits.log_softmax(-1).bfloat16() if logits.argmax(-1).tolist() == answer else None


def fact_of(lesson: Lesson) -> str:
    """What a lesson teaches, as one name for all documents of a request."""
    return f"{lesson.document} {lesson.fact}"


def question_ids(student: LocalModel, question: str) -> TokenIds:
    """A question as a user asks it: alone, in the chat template."""
    return student.encode([prompts.user(question)])


def _passage(texts: dict[str, list[str]], lesson: Lesson) -> str:
    found = texts[lesson.document]
    return found[lesson.passage] if lesson.passage < len(found) else found[0]
