"""The request-level router: which shard, if any, a question is about.

A question's embedding is compared with every shard's keys (its titles, sentences and lesson questions). The
nearest key's shard is chosen if it is nearer than a threshold, which is set so that few general questions pass.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lmt2.models.compute import compute

ROWS = 64
LONGEST = 256  # tokens that MiniLM was trained to read


class Encoder:
    """Sentence embeddings of unit length: mean-pooled MiniLM."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._net: Any = AutoModel.from_pretrained(folder).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] of N texts."""
        parts = [torch.empty(0, self._net.config.hidden_size)]
        for start in range(0, len(texts), ROWS):
            with compute.background():
                parts.append(self._embed(list(texts[start : start + ROWS])))
        return torch.cat(parts)

    @torch.no_grad()
    def at_once(self, texts: Sequence[str]) -> Tensor:
        """The same for a few texts whose answer somebody waits for."""
        return self._embed(list(texts))

    def _embed(self, texts: list[str]) -> Tensor:
        batch = self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=LONGEST)
        seen = batch["attention_mask"].unsqueeze(-1)
        states = self._net(**batch).last_hidden_state
        return F.normalize((states * seen).sum(1) / seen.sum(1), dim=-1)


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
