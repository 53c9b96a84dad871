"""Learning by teaching (eq. 9): the model explains, and the explanations that help somebody weaker are learnt from.

    L = −E log P_student(y | x, rationale)

The model that is served writes rationales for a lesson, with the passage in front of it. A frozen weaker student, the
base model, then answers the question with each of them and without; the one with which the right answer is likeliest is
kept if it is likelier than without (as LbT scores rationales by what a student gets right with them). The paper's
student is trained with the rationale in its context. Ours is asked without one, so what the base says with the
rationale is its teacher: the loss is the paper's, distilled. A rationale that says the answer itself helps most, and is
no leak here: the answer is what is taught.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from learner.hand import Hand
from learner.targets import Target, target_of
from lmt2.events import Lesson, UpdateRequest
from lmt2.models.base import Conversation, Sampling
from lmt2.study import prompts

RATIONALES = 3  # tried for a lesson
EXPLAINING = Sampling(max_new_tokens=40, temperature=0.8, top_p=0.95)
HELPS = 0.1  # nats a token by which an answer must become likelier

Choose = Callable[[Hand, Lesson, Sequence[str]], str]


def most_helpful(hand: Hand, lesson: Lesson, rationales: Sequence[str]) -> str:
    """The rationale with which the base answers best, empty if none helps."""
    tasks = [[prompts.user(lesson.question)], *(with_rationale(text, lesson.question) for text in rationales)]
    alone, *helped = (fmean(row) for row in hand.base.logprobs(tasks, [lesson.answer] * len(tasks)))
    best = max(range(len(rationales)), key=lambda number: helped[number])
    return rationales[best] if helped[best] > alone + HELPS else ""


def build(request: UpdateRequest, hand: Hand, choose: Choose = most_helpful) -> Iterator[Target]:
    """One target for each lesson that a rationale helps with; `choose` says which does, empty for none."""
    told = [lesson for lesson in request.lessons if lesson.kind != "gap"]
    said = hand.say(hand.student, [explain(hand.passage(x), x) for x in told for _ in range(RATIONALES)], EXPLAINING)
    kept = 0
    for number, lesson in enumerate(told):
        hand.budget.check()
        rationale = choose(hand, lesson, said[RATIONALES * number : RATIONALES * (number + 1)])
        if rationale:
            kept += 1
            yield _distilled(hand, lesson, rationale)
    hand.figures.update(rationales=len(said), rationales_kept=kept)


def explain(passage: str, lesson: Lesson) -> Conversation:
    """The tutor's task."""
    asked = f"{passage}\n\nQuestion: {lesson.question}\nAnswer: {lesson.answer}\nExplain the answer in one sentence."
    return [prompts.user(asked)]


def with_rationale(rationale: str, question: str) -> Conversation:
    """The student's task."""
    return prompts.read(rationale, question)


def _distilled(hand: Hand, lesson: Lesson, rationale: str) -> Target:
    """The question alone, towards what the base says with the rationale; the answer where that says another."""
    target = target_of(hand.base, lesson)
    task = hand.base.encode(with_rationale(rationale, lesson.question))
    (logits,) = hand.base.answer_logits([task], [target.answer])
    is_right = logits.argmax(-1).tolist() == target.answer
    return replace(target, teacher=logits.log_softmax(-1).bfloat16()) if is_right else target
