"""Sentence embeddings, for finding which documents, shards and facts a question is about."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lmt2.models.compute import compute
from lmt2.models.local import merged

ROWS = 64
FINDERS = Path(__file__).parent / "finders"  # made by lmt2.study.finder; an encoder of another name has none
LONGEST = 256  # tokens that MiniLM was trained to read


class Embeds(Protocol):
    """Embeds texts by what they are about, and by the fact that they ask for or state."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] of unit length of N texts: what they are about."""
        ...

    def by_fact(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] of unit length that tell the facts of one document apart, for questions and statements."""
        ...


class Encoder:
    """Sentence embeddings of unit length: mean-pooled MiniLM, and MiniLM with the finder's adapter for facts."""

    def __init__(self, folder: Path, finder: Path | None = None) -> None:
        """Load the encoder of a folder, with the finder that is shipped for its name, or another one."""
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._net = _load(folder)
        finder = finder or FINDERS / folder.name
        self._finder = _load(folder, finder) if finder.is_dir() else self._net
        self._turn: Callable[[], AbstractContextManager[None]] = compute.background

    def at_once(self) -> "Encoder":
        """The same encoder for texts whose answer somebody waits for."""
        urgent = copy(self)
        urgent._turn = nullcontext  # noqa: SLF001
        return urgent

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] of N texts: what they are about."""
        return self._embed(self._net, texts)

    def by_fact(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] that tell facts of one document apart; plain ones if no finder fits this encoder."""
        return self._embed(self._finder, texts)

    @torch.no_grad()
    def _embed(self, net: Any, texts: Sequence[str]) -> Tensor:
        parts = [torch.empty(0, net.config.hidden_size)]
        for start in range(0, len(texts), ROWS):
            with self._turn():
                parts.append(pooled(net, self._tokenizer, texts[start : start + ROWS]))
        return torch.cat(parts)


class Remembering:
    """An encoder that embeds each text once."""

    def __init__(self, encoder: Embeds) -> None:
        self._encoder = encoder
        self._about: dict[str, Tensor] = {}
        self._by_fact: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] of N texts: what they are about."""
        return _remembered(self._about, self._encoder, texts)

    def by_fact(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, E] that tell facts of one document apart."""
        return _remembered(self._by_fact, self._encoder.by_fact, texts)


def pooled(net: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Unit-length means [N, E] of the last states of N texts."""
    batch = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=LONGEST)
    seen = batch["attention_mask"].unsqueeze(-1)
    states = net(**batch).last_hidden_state
    return F.normalize((states * seen).sum(1) / seen.sum(1), dim=-1)


def _remembered(known: dict[str, Tensor], embed: Callable[[Sequence[str]], Tensor], texts: Sequence[str]) -> Tensor:
    new = [text for text in dict.fromkeys(texts) if text not in known]
    known.update(zip(new, embed(new), strict=True))
    return torch.stack([known[text] for text in texts]) if texts else embed(())


def _load(folder: Path, adapter: Path | None = None) -> Any:
    net: Any = AutoModel.from_pretrained(folder)
    return (net if adapter is None else merged(net, adapter)).eval().requires_grad_(False)
