"""The request-level router: which shard, if any, a question is about, and which of the shard's experts knows.

A question's embedding is compared with every shard's places (its titles, sentences and lesson questions) and with
general questions, which are nobody's:

    nearness = max_p cos(q, place_p) − ½ · max_g cos(q, general_g)

The nearest place's shard is chosen if the nearness is above a threshold, which is set so that none of the general
questions would pass. The second term is what tells "Which river flows through Vienna?" from a question about
a document that names a river: with it the same recall needs a third of the false routes (docs/experiments.md).
Within the shard the fact nearest to the question says which expert: GRACE's deferral to the nearest key
(arXiv 2211.11031), where a key is what a document states and not how somebody asked for it. A fact whose answer the
question says itself isn't what it asks for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmt2.models.encoder import Embeds
from lmt2.scoring import hit
from memory.shards import SHARED, Keys

GENERAL_SHARE = 0.5
OUT_OF_REACH = 4.0  # more than two cosines can differ by
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
    """

    def __init__(self, keys: Sequence[Keys], threshold: float, general: Tensor) -> None:
        self._keys = keys
        self._places = joined(keys)
        self._owner = [shard for shard, k in enumerate(keys) for _ in k.places]
        self._general = general.float()
        self._threshold = threshold

    def route(self, questions: Sequence[str], encoder: Embeds) -> list[Route | None]:
        """For each question the nearest shard and its expert, or None where none is near enough.

        Only those that reach a shard are embedded by fact.
        """
        if not self._owner:
            return [None] * len(questions)
        values, nearest = nearness(encoder(questions), self._places, self._general)
        routes: list[Route | None] = [None] * len(questions)
        for shard, numbers in self._by_shard(values > self._threshold, nearest).items():
            experts = nearest_experts([questions[number] for number in numbers], self._keys[shard], encoder)
            for number, expert in zip(numbers, experts, strict=True):
                routes[number] = Route(shard, expert)
        return routes

    def _by_shard(self, is_near: Tensor, nearest: Tensor) -> dict[int, list[int]]:
        """The numbers of the questions that are near enough, by the shard of their nearest place."""
        found: dict[int, list[int]] = {}
        for number in is_near.nonzero().flatten().tolist():
            found.setdefault(self._owner[int(nearest[number])], []).append(number)
        return found


def nearest_experts(questions: Sequence[str], keys: Keys, encoder: Embeds) -> list[int]:
    """For each question the expert of the nearest fact that it doesn't state itself; SHARED where there is no fact."""
    if not len(keys.facts):
        return [SHARED] * len(questions)
    likeness = encoder.by_fact(questions) @ keys.facts.float().T
    found: list[int] = keys.experts[(likeness - OUT_OF_REACH * _says(questions, keys)).argmax(dim=1)].tolist()
    return found


def _says(questions: Sequence[str], keys: Keys) -> Tensor:
    """Whether [N, K] each question has the answer of each fact among its words: 1 or 0."""
    if not keys.answers:
        return torch.zeros(len(questions), len(keys.facts))
    said = [[hit(question, [answer]) for answer in keys.answers] for question in questions]
    return torch.tensor(said, dtype=torch.float32)[:, keys.experts]


def joined(keys: Sequence[Keys]) -> Tensor:
    """The places [P, E] of all shards."""
    return torch.cat([k.places.float() for k in keys]) if keys else torch.empty(0, 0)


def nearness(questions: Tensor, places: Tensor, general: Tensor) -> tuple[Tensor, Tensor]:
    """How near questions [N, E] are to their nearest place [P, E], less likeness to a general one; and which place."""
    values, nearest = (questions @ places.T).max(dim=1)
    if len(general):
        likeness = questions @ general.T
        values = values - GENERAL_SHARE * likeness.masked_fill(likeness > ITSELF, 0.0).max(dim=1).values
    return values, nearest


def threshold_for(keys: Sequence[Keys], general: Tensor) -> float:
    """The nearness that no general question [G, E] exceeds, each judged by the others."""
    return float(nearness(general, joined(keys), general)[0].max()) if keys else 1.0
