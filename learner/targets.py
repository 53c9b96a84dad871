"""What a student is trained towards: a prompt, an answer, and for each token a distribution or just the token."""

from dataclasses import dataclass

from torch import Tensor

from lmt2.events import Lesson
from lmt2.models.base import TokenIds
from lmt2.models.local import LocalModel
from lmt2.study import prompts
from memory.shards import SHARED


@dataclass(frozen=True)
class Target:
    """One training sequence.

    Attributes:
        prompt: token ids up to where the answer begins; no loss.
        answer: token ids of the answer with its end-of-turn token.
        weight: KaFT's w_i (eq. 2).
        fact: samples are drawn evenly over facts, however many phrasings each has.
        asks: the question by which a router would find the fact; empty for a general prompt.
        teaches: the fact's answer, as the request's lessons have it; empty for a general prompt.
        teacher: log-probabilities [T, V] of the T answer tokens, or None: then the loss is cross-entropy.
        since: share of a round's steps before which it isn't drawn, if its fact has others.
        expert: the expert of the shard in training that learns it, or SHARED: it holds whichever it goes through.
        others: experts that it could be routed to by mistake.
    """

    prompt: TokenIds
    answer: TokenIds
    weight: float
    fact: str
    asks: str = ""
    teaches: str = ""
    teacher: Tensor | None = None
    since: float = 0.0
    expert: int = SHARED
    others: tuple[int, ...] = ()


def target_of(model: LocalModel, lesson: Lesson, answer: str | None = None, teacher: Tensor | None = None) -> Target:
    """The target of a lesson asked closed book: its answer, or another wording of it."""
    return Target(
        prompt=model.encode([prompts.user(lesson.question)]),
        answer=answer_ids(model, lesson.answer if answer is None else answer),
        weight=lesson.weight,
        fact=fact_of(lesson),
        asks=lesson.question,
        teaches=lesson.answer,
        teacher=teacher,
    )


def answer_ids(model: LocalModel, answer: str) -> TokenIds:
    """An answer with the token that ends its turn."""
    return model.encode_text(answer) + model.encode_text(model.tokenizer.eos_token)


def fact_of(lesson: Lesson) -> str:
    """What a lesson teaches, as one name for all documents of a request."""
    return f"{lesson.document} {lesson.fact}"
