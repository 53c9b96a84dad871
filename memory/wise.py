"""The routed forward pass: y = W a, plus B A a of the shard that a row is routed to (eq. 11 with a per-request gate).

The paper's gate g(x) looks at every token's activation. In this form the gate is the request-level router: a
row of a batch has one shard or none, and a row without one computes exactly the base model.
"""

from collections.abc import Sequence

from torch import Tensor

from memory.shards import Shard


class RoutedRows:
    """A side memory for one batch: row i goes through `shards[i]`, or through the base alone where it is None.

    Only the shards that the batch uses are stacked, so the cost doesn't grow with how many exist. They may differ
    in layers and rank, as shards do that were made before and after a change of the learner's settings.
    """

    def __init__(self, shards: Sequence[Shard | None]) -> None:
        used = [shard for shard in shards if shard is not None]
        self._a: dict[int, Tensor] = {}
        self._b: dict[int, Tensor] = {}
        for layer in dict.fromkeys(layer for shard in used for layer in shard.a):
            owners = [shard if shard is not None and layer in shard.a else None for shard in shards]
            self._a[layer] = _stacked([None if s is None else s.a[layer] for s in owners])  # [B, R, F]
            self._b[layer] = _stacked([None if s is None else s.b[layer].T for s in owners])  # [B, R, D]

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
