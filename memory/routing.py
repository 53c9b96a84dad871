"""The request-level router: which shard, if any, a question is about, and which of the shard's experts knows.

A question's embedding is compared with every shard's keys (its titles, sentences and lesson questions) and with
general questions, which are nobody's:

    nearness = max_k cos(q, key_k) − ½ · max_g cos(q, general_g)

The nearest key's shard is chosen if the nearness is above a threshold, which is set so that none of the general
questions would pass. The second term is what tells "Which river flows through Vienna?" from a question about
a document that names a river: with it the same recall needs a third of the false routes (docs/experiments.md).
Within the shard the nearest of the keys that call an expert says which: GRACE's deferral to the nearest key
(arXiv 2211.11031), by what a question means.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from memory.shards import SHARED, Keys

GENERAL_SHARE = 0.5
ITSELF = 0.999  # cosine from which a general question is the one that is asked


class Route(NamedTuple):
    """Where a question goes: a shard, by its place, and one of its experts."""

    shard: int
    expert: int


class Router:
    """Finds the shard and the expert of a question.

    Args:
        keys: of each shard.
        threshold: nearness that a question must exceed.
        general: embeddings [G, E] of general questions; may be empty.
        by_fact: how embeddings [N, E] tell facts of one document apart.
    """

    def __init__(
        self, keys: Sequence[Keys], threshold: float, general: Tensor, by_fact: Callable[[Tensor], Tensor]
    ) -> None:
        self._keys = keys
        self._embeddings = joined(keys)
        self._owner = [shard for shard, k in enumerate(keys) for _ in k.embeddings]
        self._general = general.float()
        self._threshold = threshold
        self._by_fact = by_fact

    def route(self, questions: Tensor) -> list[Route | None]:
        """For embeddings [N, E] the nearest shard and its expert, or None where none is near enough."""
        if not self._owner:
            return [None] * len(questions)
        values, nearest = nearness(questions, self._embeddings, self._general)
        routes: list[Route | None] = [None] * len(questions)
        for shard, places in self._by_shard(values > self._threshold, nearest).items():
            experts = nearest_experts(questions[places], self._keys[shard], self._by_fact)
            for place, expert in zip(places, experts, strict=True):
                routes[place] = Route(shard, expert)
        return routes

    def _by_shard(self, is_near: Tensor, nearest: Tensor) -> dict[int, list[int]]:
        """The places of the questions that are near enough, by the shard of their nearest key."""
        found: dict[int, list[int]] = {}
        for place in is_near.nonzero().flatten().tolist():
            found.setdefault(self._owner[int(nearest[place])], []).append(place)
        return found


def nearest_experts(questions: Tensor, keys: Keys, by_fact: Callable[[Tensor], Tensor]) -> list[int]:
    """For questions [N, E] the expert of the nearest key that calls one; SHARED where none does."""
    likeness = by_fact(questions) @ by_fact(keys.embeddings.float()).T
    nearest = likeness.masked_fill(keys.experts == SHARED, -torch.inf).argmax(dim=1)
    found: list[int] = keys.experts[nearest].tolist()
    return found


def joined(keys: Sequence[Keys]) -> Tensor:
    """The embeddings [N, E] of all shards' keys."""
    return torch.cat([k.embeddings.float() for k in keys]) if keys else torch.empty(0, 0)


def nearness(questions: Tensor, keys: Tensor, general: Tensor) -> tuple[Tensor, Tensor]:
    """Each question's [N, E] nearness to its nearest key [K, E] less its likeness to a general one, and which key."""
    values, nearest = (questions @ keys.T).max(dim=1)
    if len(general):
        likeness = questions @ general.T
        values = values - GENERAL_SHARE * likeness.masked_fill(likeness > ITSELF, 0.0).max(dim=1).values
    return values, nearest


def threshold_for(keys: Sequence[Keys], general: Tensor) -> float:
    """The nearness that no general question [G, E] exceeds, each judged by the others."""
    return float(nearness(general, joined(keys), general)[0].max()) if keys else 1.0
