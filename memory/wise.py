"""The routed forward pass: y = W a, plus B A a of what a row is routed to (eq. 11 with a per-request gate).

The paper's gate g(x) looks at every token's activation. In this form the gate is the request-level router: a
row of a batch has one shard or none, and in the shard one expert beside the shared one; a row without a shard
computes exactly the base model.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lmt2.models.base import Conversation, Sampling
from lmt2.models.local import ROWS, LocalModel
from memory.shards import Delta


def generate(
    model: LocalModel, conversations: Sequence[Conversation], deltas: Sequence[Delta | None], sampling: Sampling
) -> list[str]:
    """One answer for each conversation, through its own delta or none; differently routed ones share a batch."""
    answers: list[str] = []
    for start in range(0, len(conversations), ROWS):
        plan = replace(sampling, seed=sampling.seed + start)  # as the model numbers the rows of a long list
        with model.use(side_of(deltas[start : start + ROWS])):
            answers += model.generate(conversations[start : start + ROWS], plan)
    return answers


def logprobs(
    model: LocalModel, conversations: Sequence[Conversation], answers: Sequence[str], deltas: Sequence[Delta | None]
) -> list[list[float]]:
    """Log-probabilities of answers' tokens, each conversation through its own delta or none."""
    scored: list[list[float]] = []
    for delta, conversation, answer in zip(deltas, conversations, answers, strict=True):
        with model.use(side_of([delta])):
            scored += model.logprobs([conversation], [answer])
    return scored


def side_of(deltas: Sequence[Delta | None]) -> "RoutedRows | None":
    """The side memory for a batch; None where the base alone answers all of it."""
    return RoutedRows(deltas) if any(delta is not None for delta in deltas) else None


class RoutedRows:
    """A side memory for one batch: row i goes through `deltas[i]`, or through the base alone where it is None.

    Only what the batch uses is stacked, so the cost doesn't grow with how many shards exist. They may differ in
    layers and rank, as shards do that were made before and after a change of the learner's settings.
    """

    def __init__(self, deltas: Sequence[Delta | None]) -> None:
        used = [delta for delta in deltas if delta is not None]
        self._a: dict[int, Tensor] = {}
        self._b: dict[int, Tensor] = {}
        for layer in dict.fromkeys(layer for delta in used for layer in delta.a):
            rows = [delta if delta is not None and layer in delta.a else None for delta in deltas]
            self._a[layer] = _stacked([None if d is None else d.a[layer] for d in rows])  # [B, R, F]
            self._b[layer] = _stacked([None if d is None else d.b[layer].T for d in rows])  # [B, R, D]

    def add(self, layer: int, activations: Tensor, output: Tensor) -> Tensor:
        """Output [B, T, D] with each row's delta added, given activations [B, T, F]."""
        if layer not in self._a:
            return output
        low = activations @ self._a[layer].to(activations.dtype).transpose(1, 2)
        return output + low @ self._b[layer].to(activations.dtype)


def _stacked(factors: Sequence[Tensor | None]) -> Tensor:
    """Factors [R, ·] as [B, R, ·], with zeros for rows without one and for ranks that a factor lacks."""
    given = [factor for factor in factors if factor is not None]
    stacked = given[0].new_zeros(len(factors), max(map(len, given)), given[0].shape[1])
    for row, factor in zip(stacked, factors, strict=True):
        if factor is not None:
            row[: len(factor)] = factor
    return stacked
