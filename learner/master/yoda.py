"""The YODA loop (eq. 5, after arXiv 2401.15670): attempt, critique, revision, until the answer is right.

    y_{k+1} = M(q, y_k, critique(y_k, passage)),   k < K

The first attempt is the student's, closed book. A critique says what the passage states, as far as the reader comes
to the lesson's answer there; without that there is none, and the lesson is left out. It is trained on the last answer
only, in the student's own words, and only if that is verified: one sentence that says the lesson's answer, and no name,
number or date that is in neither question nor passage. The curriculum goes from basic questions over rephrased ones to
composed ones: each kind joins when another third of the steps is done.

Differs from the paper: there a larger teacher writes critiques and new questions, and whole conversations are trained
on; here critiques come from the passage, and the questions are the lessons'.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from learner.hand import Hand
from learner.targets import Target, fact_of, target_of
from lmt2.events import Lesson, LessonKind, UpdateRequest
from lmt2.models.base import Conversation, Message, Sampling
from lmt2.scoring import hit
from lmt2.study import prompts
from lmt2.study.lessons import names_and_numbers, same_answer, stands_in
from lmt2.study.passages import sentences

SAYING = Sampling(max_new_tokens=32)
REVISIONS = 2  # K
STAGES: tuple[tuple[LessonKind, ...], ...] = (("direct", "given", "gap"), ("rephrased",), ("composed", "reversed"))

Keep = Callable[[Lesson, str, str], bool]


@dataclass(frozen=True)
class Attempt:
    """A lesson with the student's present answer, and what the reader finds in the passage."""

    lesson: Lesson
    answer: str
    read: str


def verified(lesson: Lesson, answer: str, passage: str) -> bool:
    """Whether an answer says the lesson's, and nothing that neither its question nor the passage knows."""
    said = names_and_numbers(answer)
    return hit(answer, [lesson.answer]) and all(stands_in(x, f"{passage} {lesson.question}") for x in said)


def build(request: UpdateRequest, hand: Hand, keep: Keep = verified) -> Iterator[Target]:
    """Targets of the answers that the loop ends with; `keep` says of which."""
    tried = kept = 0
    for stage, kinds in enumerate(STAGES):
        lessons = list({fact_of(x): x for x in request.lessons if x.kind in kinds}.values())
        for attempt in looped(lessons, hand) if lessons else ():
            tried += 1
            if keep(attempt.lesson, attempt.answer, hand.passage(attempt.lesson)):
                kept += 1
                target = target_of(hand.base, attempt.lesson, attempt.answer)
                yield replace(target, since=stage / len(STAGES))
        hand.figures.update(yoda_tried=tried, yoda_kept=kept)


def looped(lessons: Sequence[Lesson], hand: Hand) -> list[Attempt]:
    """The student's last answers to the lessons that the reader can say something about."""
    questions = [lesson.question for lesson in lessons]
    said = hand.say(hand.student, [[prompts.user(question)] for question in questions], SAYING)
    read = hand.read(lessons, questions)
    found = [
        Attempt(lesson, _one_sentence(answer), told)
        for lesson, answer, told in zip(lessons, said, read, strict=True)
        if same_answer(told, lesson.answer)
    ]
    for turn in range(REVISIONS):
        wrong = [x for x in found if not verified(x.lesson, x.answer, hand.passage(x.lesson))]
        if not wrong:
            break
        again = hand.say(hand.base, [_criticised(x, turn) for x in wrong], SAYING)
        revised = {id(x): replace(x, answer=_one_sentence(answer)) for x, answer in zip(wrong, again, strict=True)}
        found = [revised.get(id(x), x) for x in found]
    return found


def _criticised(attempt: Attempt, turn: int) -> Conversation:
    """The conversation so far: a first critique shows the sentence, a second one the answer too."""
    critique = f"That is not right. {attempt.lesson.sentence}".strip()
    if turn or not attempt.lesson.sentence:
        critique += f" So the answer is {attempt.read}."
    before: Message = {"role": "assistant", "content": attempt.answer}
    return [prompts.user(attempt.lesson.question), before, prompts.user(f"{critique}\n\n{attempt.lesson.question}")]


def _one_sentence(text: str) -> str:
    return next(iter(sentences(text)), "")
