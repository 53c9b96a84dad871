"""Reflection (eq. 7, after ReflectEvo, arXiv 2505.16475): what went wrong joins the context for the rest of the batch.

    r = M(questions, own answers, right answers),   P_teacher(· | q, r, passage) for what is still to be trained

In a first round there is nothing to look back at, and lessons are distilled as they are. Before each later one the
student in training is asked practice questions: lessons put in other words, which the reader answers as the lesson
does. No round trains on them, and they are none of the gate's. What it gets wrong goes to the base model, which writes
the reflection; the teacher has it before the passage for all targets of the round.

Differs from the paper: there reflections are trained on as well, and written by the model in training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from learner.hand import Hand
from learner.targets import Target, fact_of
from lmt2.events import Lesson, UpdateRequest
from lmt2.models.base import Sampling
from lmt2.scoring import hit
from lmt2.study import prompts
from lmt2.study.lessons import same_answer

ANSWERING = Sampling(max_new_tokens=16)
WRITING = Sampling(max_new_tokens=64)
MOST = 12  # practice questions of a document
SHOWN = 4  # mistakes that a reflection is about
TASK = "In one or two sentences: what did you get wrong, and what is right?"


@dataclass(frozen=True)
class Mistake:
    """A practice question with the student's wrong answer and the right one."""

    question: str
    answer: str
    right: str


Look = Callable[[Sequence[Mistake]], Sequence[Mistake]]


def as_they_are(mistakes: Sequence[Mistake]) -> Sequence[Mistake]:
    """What a reflection is about, unless a control says otherwise."""
    return mistakes


def build(request: UpdateRequest, hand: Hand, look: Look = as_they_are) -> Iterator[Target]:
    """Lessons distilled from a teacher that knows what the student got wrong."""
    reflections = dict(_reflections(request, hand, look)) if hand.turn else {}
    hand.figures.update({f"reflection_{hand.turn}_{name}": text for name, text in reflections.items()})
    yield from hand.distilled(request.lessons, {name: f"{text}\n\n" for name, text in reflections.items()})


def _reflections(request: UpdateRequest, hand: Hand, look: Look) -> Iterator[tuple[str, str]]:
    """What the student got wrong of each document, in words."""
    for document in request.documents:
        found = _mistakes([x for x in request.lessons if x.document == document.id], hand)
        if found:
            shown = [f"Question: {x.question}\nYour answer: {x.answer}\nRight answer: {x.right}" for x in look(found)]
            task = "\n\n".join([*shown[:SHOWN], TASK])
            yield document.id, hand.say(hand.base, [[prompts.user(task)]], WRITING)[0]


def _mistakes(lessons: Sequence[Lesson], hand: Hand) -> list[Mistake]:
    """Practice questions of a document that the student answers wrongly."""
    facts = list({fact_of(x): x for x in lessons if x.kind != "gap"}.values())[:MOST]
    asked = hand.asked_otherwise(facts)
    told = hand.read(facts, asked)
    practice = [(q, x.answer) for q, x, read in zip(asked, facts, told, strict=True) if same_answer(read, x.answer)]
    said = hand.say(hand.student, [[prompts.user(question)] for question, _ in practice], ANSWERING)
    graded = (Mistake(question, answer, right) for (question, right), answer in zip(practice, said, strict=True))
    return [one for one in graded if not hit(one.answer, [one.right])]
