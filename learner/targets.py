"""What a student is trained towards: a prompt, an answer, and for each token a distribution or just the token."""

from dataclasses import dataclass

from torch import Tensor

from memory.shards import SHARED


@dataclass(frozen=True)
class Target:
    """One training sequence.

    Attributes:
        prompt: token ids up to where the answer begins; no loss.
        answer: token ids of the answer with its end-of-turn token.
        weight: KaFT's w_i (eq. 2).
        fact: samples are drawn evenly over facts, however many phrasings each has.
        expert: the expert of the shard in training that learns it, or SHARED: it holds whichever it goes through.
        others: experts that it could be routed to by mistake.
        teacher: log-probabilities [T, V] of the T answer tokens, or None: then the loss is cross-entropy.
    """

    prompt: list[int]
    answer: list[int]
    weight: float
    fact: str
    expert: int = SHARED
    others: tuple[int, ...] = ()
    teacher: Tensor | None = None
