"""Rows that are decoded together, step by step; between steps others may join them, and rows may leave.

Rows stand with their ends under one another, so a shorter one is padded on its left; positions count from its own
first token. What a row says doesn't depend on the others (but for rounding in bfloat16).

Shape legend: B rows, T tokens so far, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from lmt2.models.base import Sampling, TokenIds
from lmt2.models.shared_prefix import Prefix, prefill

HEAD = 512  # most nuclei lie within so many tokens; sorting the whole vocabulary costs more than the model's step


class Batch:
    """Prompts in decoding, with the keys and values of what they have said so far.

    Args:
        net: a transformers model whose attention is `shared_prefix`.
        prompts: token ids of each row.
        plans: how each row's tokens are chosen; `max_new_tokens` is the caller's to mind.
        shared: how many tokens that all prompts begin with are computed once. Such a batch can't be joined.
    """

    def __init__(self, net: Any, prompts: Sequence[TokenIds], plans: Sequence[Sampling], shared: int = 0) -> None:
        self._net = net
        self._shared = prompts[0][:shared]
        self.ids, self.mask = padded([p[shared:] for p in prompts], left=True)
        self.choose = Sampler(plans)
        self.prefix: Prefix | None = None
        self.cache: Any = None

    @torch.no_grad()
    def step(self) -> list[int]:
        """The next token of each row, which the step after this one goes on from."""
        if self.cache is None:
            self.prefix = prefill(self._net, self._shared)
            self.cache = DynamicCache(config=self._net.config)
        positions = len(self._shared) + (self.mask.cumsum(1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        hidden = self._net.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            prefix=self.prefix,
        ).last_hidden_state
        tokens = self.choose(self._net.lm_head(hidden[:, -1]).float())
        self.ids = tokens.unsqueeze(1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)
        return tokens.tolist()

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some rows only, in this order, and without the padding that only others needed."""
        self.choose = self.choose.of(places)
        self.ids, mask = self.ids[places], self.mask[places]
        first = int(mask.any(dim=0).nonzero()[0])
        self.mask = mask[:, first:]
        self._each_cached(lambda part, _: part[places][:, :, first:])

    def join(self, other: "Batch") -> None:
        """Take in the rows of another batch, behind one's own; both have taken a step, and neither shares a prefix."""
        assert self.prefix is other.prefix is None, "rows of two prefixes can't be decoded together"
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.choose = self.choose.joined(other.choose)
        self.ids = torch.cat([self.ids, other.ids])
        self.mask = torch.cat([F.pad(m, (width - m.shape[1], 0)) for m in (self.mask, other.mask)])
        cached = width - 1  # the newest token is still to be computed

        def both(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.cat([F.pad(part, (0, 0, cached - part.shape[2], 0)) for part in (mine, theirs)])

        self._each_cached(both, other.cache)

    def _each_cached(self, change: Callable[[Tensor, Tensor], Tensor], other: Any = None) -> None:
        """Change the keys and values [B, H, T, D] of each layer, given another cache's."""
        for mine, theirs in zip(self.cache.layers, (other or self.cache).layers, strict=True):
            mine.keys, mine.values = change(mine.keys, theirs.keys), change(mine.values, theirs.values)


class Sampler:
    """Chooses a token for each row: greedily, or from the nucleus (top-p) with the row's own random stream."""

    def __init__(self, plans: Sequence[Sampling], streams: Sequence[torch.Generator] | None = None) -> None:
        self.plans = plans
        self.streams = streams or [torch.Generator().manual_seed(plan.seed) for plan in plans]
        self._is_greedy = torch.tensor([plan.temperature == 0 for plan in plans])
        self._temperature = torch.tensor([plan.temperature or 1.0 for plan in plans]).unsqueeze(1)
        self._top_p = torch.tensor([plan.top_p for plan in plans]).unsqueeze(1)

    def of(self, rows: Sequence[int]) -> "Sampler":
        """The sampler of some rows only; their random streams go on."""
        return Sampler([self.plans[row] for row in rows], [self.streams[row] for row in rows])

    def joined(self, other: "Sampler") -> "Sampler":
        """The sampler of one's own rows and then another's."""
        return Sampler([*self.plans, *other.plans], [*self.streams, *other.streams])

    def __call__(self, logits: Tensor) -> Tensor:
        """Tokens [B] for logits [B, V]."""
        best = logits.argmax(-1)
        if bool(self._is_greedy.all()):
            return best
        everything = (logits / self._temperature).softmax(-1)
        weights, order = everything.topk(min(HEAD, logits.shape[-1]))
        if bool((weights.sum(-1, keepdim=True) < self._top_p).any()):  # a nucleus reaches further: sort it all
            weights, order = everything.sort(-1, descending=True)
        before = weights.cumsum(-1) - weights
        heights = (weights * (before < self._top_p)).cumsum(-1)
        uniform = torch.stack([torch.rand(1, generator=stream) for stream in self.streams])
        place = torch.searchsorted(heights, uniform * heights[:, -1:]).clamp(max=weights.shape[-1] - 1)
        return torch.where(self._is_greedy, best, order.gather(1, place).squeeze(1))


def padded(rows: Sequence[TokenIds], left: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T] of rows of several lengths."""
    width = max(map(len, rows))
    fills = [[0] * (width - len(row)) for row in rows]
    ids = [fill + row if left else row + fill for fill, row in zip(fills, rows, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [fill + one if left else one + fill for fill, one in zip(fills, ones, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)
