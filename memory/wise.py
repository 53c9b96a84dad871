"""The routed forward pass: y = W a, plus B A a of the shard that a row is routed to (eq. 11 with a per-request gate).

The paper's gate g(x) looks at every token's activation. In this form the gate is the request-level router: a
row of a batch has one shard or none, and a row without one computes exactly the base model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from memory.shards import Shard


class RoutedRows:
    """A side memory for one batch: row i goes through `shards[i]`, or through the base alone where it is None.

    Only the shards that the batch uses are stacked, so the cost doesn't grow with how many exist.
    """

    def __init__(self, shards: Sequence[Shard | None]) -> None:
        used = [shard for shard in shards if shard is not None]
        self._a: dict[int, Tensor] = {}
        self._b: dict[int, Tensor] = {}
        for layer in used[0].a if used else ():
            zero_a, zero_b = torch.zeros_like(used[0].a[layer]), torch.zeros_like(used[0].b[layer])
            self._a[layer] = torch.stack([zero_a if s is None else s.a[layer] for s in shards])  # [B, R, F]
            self._b[layer] = torch.stack([zero_b if s is None else s.b[layer] for s in shards])  # [B, D, R]

    def add(self, layer: int, activations: Tensor, output: Tensor) -> Tensor:
        """Output [B, T, D] with each row's delta added, given activations [B, T, F]."""
        if layer not in self._a:
            return output
        low = activations @ self._a[layer].to(activations.dtype).transpose(1, 2)
        return output + low @ self._b[layer].to(activations.dtype).transpose(1, 2)
