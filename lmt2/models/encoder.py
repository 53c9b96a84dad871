"""Sentence embeddings, for finding which documents, shards and facts a question is about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lmt2.models.compute import compute

ROWS = 64
HEADS = Path(__file__).parent / "heads"  # made by lmt2.study.finder; an encoder of another name has none
LONGEST = 256  # tokens that MiniLM was trained to read


class Encoder:
    """Sentence embeddings of unit length: mean-pooled MiniLM."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._net: Any = AutoModel.from_pretrained(folder).eval().requires_grad_(False)
        head = HEADS / f"{folder.name}.safetensors"
        self._head = load_file(head)["head"].float() if head.is_file() else None

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

    def by_fact(self, embeddings: Tensor) -> Tensor:
        """Embeddings [N, E] as they tell facts of one document apart: through the trained head, if there is one."""
        return embeddings if self._head is None else F.normalize(embeddings.float() @ self._head, dim=-1)

    def _embed(self, texts: list[str]) -> Tensor:
        batch = self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=LONGEST)
        seen = batch["attention_mask"].unsqueeze(-1)
        states = self._net(**batch).last_hidden_state
        return F.normalize((states * seen).sum(1) / seen.sum(1), dim=-1)
