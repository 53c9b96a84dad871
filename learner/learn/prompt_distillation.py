"""Prompt distillation (eq. 3, after arXiv 2412.14964): a teacher has the passage, the student learns without it.

    L = Σ w_i · KL( P_teacher(· | q_i, passage) ‖ P_student(· | q_i) )

The teacher is the reader: the same base model with the study adapter and the passage in front of it, where the
paper's teacher is the base model alone (it reads too badly at this size). Its trajectory is verified before
use: it must be the answer that the lesson was checked for. Where its own greedy answer is another one, the
lesson is trained by cross-entropy on the answer instead.
"""

from collections.abc import Iterator, Sequence

from learner.targets import Target
from lmt2.events import Document, Lesson
from lmt2.models.local import LocalModel, TokenIds
from lmt2.scoring import normalise
from lmt2.study import prompts
from lmt2.study.passages import passages


def targets(
    documents: Sequence[Document], lessons: Sequence[Lesson], student: LocalModel, teacher: LocalModel
) -> Iterator[Target]:
    """One target a lesson: the teacher's distributions where it answers so greedily, else the answer alone."""
    texts = {document.id: passages(document) for document in documents}
    stop = student.encode_text(student.tokenizer.eos_token)
    answers = [student.encode_text(lesson.answer) + stop for lesson in lessons]
    tasks = [teacher.encode(prompts.read(_passage(texts, lesson), lesson.question)) for lesson in lessons]
    for lesson, answer, logits in zip(lessons, answers, teacher.answer_logits(tasks, answers), strict=True):
        is_verified = logits.argmax(-1).tolist() == answer
        yield Target(
            prompt=question_ids(student, lesson.question),
            answer=answer,
            weight=lesson.weight,
            fact=normalise(lesson.answer),
            teacher=logits.log_softmax(-1).bfloat16() if is_verified else None,
        )


def question_ids(student: LocalModel, question: str) -> TokenIds:
    """A question as a user asks it: alone, in the chat template."""
    return student.encode([prompts.user(question)])


def _passage(texts: dict[str, list[str]], lesson: Lesson) -> str:
    found = texts[lesson.document]
    return found[lesson.passage] if lesson.passage < len(found) else found[0]
