"""The request-level router: which shard, if any, a question is about.

A question's embedding is compared with every shard's keys (its titles, sentences and lesson questions). The
nearest key's shard is chosen if it is nearer than a threshold, which is set so that few general questions pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Router:
    """Finds the shard of a question."""

    def __init__(self, keys: Sequence[Tensor], threshold: float) -> None:
        self._keys = torch.cat([k.float() for k in keys]) if keys else torch.empty(0, 0)
        self._owner = [shard for shard, k in enumerate(keys) for _ in range(len(k))]
        self._threshold = threshold

    def route(self, questions: Tensor) -> list[int | None]:
        """For embeddings [N, E] the number of the nearest shard, or None where none is near enough."""
        if not self._owner:
            return [None] * len(questions)
        nearness, nearest = (questions @ self._keys.T).max(dim=1)
        return [
            self._owner[key] if value > self._threshold else None
            for value, key in zip(nearness.tolist(), nearest.tolist(), strict=True)
        ]


def threshold_for(keys: Sequence[Tensor], general: Tensor, false_routes: float) -> float:
    """The nearness that a share of `false_routes` of general questions [N, E] exceed."""
    if not keys:
        return 1.0
    return float((general @ torch.cat([k.float() for k in keys]).T).max(dim=1).values.quantile(1 - false_routes))
