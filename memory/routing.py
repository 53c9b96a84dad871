"""The request-level router: which shard, if any, a question is about.

A question's embedding is compared with every shard's keys (its titles, sentences and lesson questions) and with
general questions, which are nobody's:

    nearness = max_k cos(q, key_k) − ½ · max_g cos(q, general_g)

The nearest key's shard is chosen if the nearness is above a threshold, which is set so that none of the general
questions would pass. The second term is what tells "Which river flows through Vienna?" from a question about
a document that names a river: with it the same recall needs a third of the false routes (docs/experiments.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GENERAL_SHARE = 0.5
ITSELF = 0.999  # cosine from which a general question is the one that is asked


class Router:
    """Finds the shard of a question.

    Args:
        keys: embeddings [N, E] of each shard.
        threshold: nearness that a question must exceed.
        general: embeddings [G, E] of general questions; may be empty.
    """

    def __init__(self, keys: Sequence[Tensor], threshold: float, general: Tensor) -> None:
        self._keys = torch.cat([k.float() for k in keys]) if keys else torch.empty(0, 0)
        self._owner = [shard for shard, k in enumerate(keys) for _ in range(len(k))]
        self._general = general.float()
        self._threshold = threshold

    def route(self, questions: Tensor) -> list[int | None]:
        """For embeddings [N, E] the number of the nearest shard, or None where none is near enough."""
        if not self._owner:
            return [None] * len(questions)
        values, nearest = nearness(questions, self._keys, self._general)
        return [
            self._owner[key] if value > self._threshold else None
            for value, key in zip(values.tolist(), nearest.tolist(), strict=True)
        ]


def nearness(questions: Tensor, keys: Tensor, general: Tensor) -> tuple[Tensor, Tensor]:
    """Each question's [N, E] nearness to its nearest key [K, E] less its likeness to a general one, and which key."""
    values, nearest = (questions @ keys.T).max(dim=1)
    if len(general):
        likeness = questions @ general.T
        values = values - GENERAL_SHARE * likeness.masked_fill(likeness > ITSELF, 0.0).max(dim=1).values
    return values, nearest


def threshold_for(keys: Sequence[Tensor], general: Tensor) -> float:
    """The nearness that no general question [G, E] exceeds, each judged by the others."""
    if not keys:
        return 1.0
    return float(nearness(general, torch.cat([k.float() for k in keys]), general)[0].max())
