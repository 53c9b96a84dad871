"""A Llama-like transformers model on this machine: batched generation, scoring, and a place for side memories.

Shape legend: B rows of a batch, T tokens, V vocabulary, D hidden, F the MLP's inner width.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from lmt2.errors import ModelError
from lmt2.models.base import Conversation, Sampling
from lmt2.models.compute import compute
from lmt2.models.precision import dtype_of
from lmt2.models.shared_prefix import NAME, Prefix

HEAD = 512  # most nuclei lie within so many tokens; sorting the whole vocabulary costs more than the model's step
ROWS = 64  # rows of one generation batch; more rows win nothing on a CPU and cost memory
TokenIds = list[int]


class Side(Protocol):
    """What may change the output of a layer's down-projection."""

    def add(self, layer: int, activations: Tensor, output: Tensor) -> Tensor:
        """The changed output [B, T, D], given the projection's input [B, T, F] and output."""
        ...


class LocalModel:
    """A frozen model. Threads may share it: the side memory in use is the calling thread's own."""

    def __init__(self, folder: Path, dtype: str = "auto", adapter: Path | None = None) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            net: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype_of(dtype), attn_implementation=NAME)
        except (OSError, ValueError) as error:
            raise ModelError(f"the model in {folder} can't be loaded: {error}") from error
        self.net = (net if adapter is None else merged(net, adapter)).eval().requires_grad_(False)
        self.folder = folder
        self.stop_ids = _stop_ids(self.net, self.tokenizer)
        self._mine = threading.local()
        for number, layer in enumerate(self.net.model.layers):
            layer.mlp.down_proj.register_forward_hook(self._hook(number))

    def encode(self, conversation: Conversation) -> TokenIds:
        """Token ids of a conversation up to where the answer begins."""
        text = self.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        return self.encode_text(text)

    def encode_text(self, text: str) -> TokenIds:
        """Token ids of plain text."""
        ids: TokenIds = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: TokenIds) -> str:
        """Text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    @contextmanager
    def use(self, side: Side | None) -> Iterator[None]:
        """Within this block this thread's forward passes go through a side memory."""
        before, self._mine.side = getattr(self._mine, "side", None), side
        try:
            yield
        finally:
            self._mine.side = before

    @property
    def has_side(self) -> bool:
        """Whether this thread's forward passes go through a side memory."""
        return getattr(self._mine, "side", None) is not None

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """One answer for each conversation. What all prompts of a batch begin with is computed once."""
        answers: list[str] = []
        for start in range(0, len(conversations), ROWS):
            prompts = [self.encode(c) for c in conversations[start : start + ROWS]]
            rows: list[TokenIds] = [[] for _ in prompts]
            plans = [replace(sampling, seed=sampling.seed + start + i) for i in range(len(prompts))]
            for tokens in self.stream(prompts, plans):
                for row, token in zip(rows, tokens, strict=True):
                    if token is not None:
                        row.append(token)
            answers += [self.decode(row).strip() for row in rows]
        return answers

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """Natural-log probability of each token of each answer."""
        prompts = [self.encode(c) for c in conversations]
        targets = [self.encode_text(answer) for answer in answers]
        scored: list[list[float]] = []
        for logits, target in zip(self.answer_logits(prompts, targets), targets, strict=True):
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(target).unsqueeze(1))
            scored.append(chosen.squeeze(1).tolist())
        return scored

    @torch.no_grad()
    def answer_logits(self, prompts: Sequence[TokenIds], answers: Sequence[TokenIds]) -> Iterator[Tensor]:
        """Float32 logits [T, V] that predict each token of each answer."""
        for start in range(0, len(prompts), ROWS):
            heads, tails = prompts[start : start + ROWS], answers[start : start + ROWS]
            shared = self.shared(heads)
            texts = [h[shared:] + t[:-1] for h, t in zip(heads, tails, strict=True)]
            with compute.background():
                prefix = self.prefill(heads[0][:shared])
                ids, mask = _pad(texts, left=False)
                positions = shared + torch.arange(ids.shape[1]).unsqueeze(0)
                hidden = self.net.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, prefix=prefix
                ).last_hidden_state
            for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
                first = len(head) - shared - 1
                yield self.net.lm_head(hidden[row, first : first + len(tail)]).float()

    @torch.no_grad()
    def stream(
        self,
        prompts: Sequence[TokenIds],
        plans: Sequence[Sampling],
        in_foreground: bool = False,
    ) -> Iterator[list[int | None]]:
        """Decode a batch step by step: each step yields one token a row, None for rows that have ended.

        An end-of-turn token ends its row and is not yielded. In the foreground steps don't wait for others.
        """
        batch = _Batch(self, prompts, plans)
        while True:
            with _no_wait() if in_foreground else compute.background():
                chosen = batch.step()
            if chosen is None:
                return
            yield chosen

    def shared(self, prompts: Sequence[TokenIds]) -> int:
        """How many tokens to compute once for all rows: none under a side memory, where rows may differ in shard."""
        return 0 if self.has_side else common_prefix(prompts)

    def prefill(self, tokens: TokenIds) -> Prefix | None:
        """Keys and values of what all rows of a batch begin with; None if that is nothing."""
        if not tokens:
            return None
        cache: Any = DynamicCache(config=self.net.config)
        self.net.model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _hook(self, layer: int) -> Any:
        def through_side(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            side: Side | None = getattr(self._mine, "side", None)
            return output if side is None else side.add(layer, inputs[0], output)

        return through_side


class _Batch:
    """Rows that are decoded together, and the keys and values of what they have said so far."""

    def __init__(self, model: LocalModel, prompts: Sequence[TokenIds], plans: Sequence[Sampling]) -> None:
        self._model = model
        self._plans = plans
        shared = model.shared(prompts)
        self._shared = prompts[0][:shared]
        self._ids, self._mask = _pad([p[shared:] for p in prompts], left=True)
        self._draw = Sampler(plans)
        self._prefix: Prefix | None = None
        self._cache: Any = None
        self._rows = list(range(len(prompts)))  # the prompt behind each row of the batch
        self._alive = [True] * len(prompts)
        self._said = 0
        self._can_shrink = not model.has_side  # a side memory counts on the rows that it was made for

    def step(self) -> list[int | None] | None:
        """One token for each prompt, None for those that have ended; None in all when all have."""
        tokens = self._next()
        chosen: list[int | None] = [None] * len(self._plans)
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            is_over = token in self._model.stop_ids or self._said >= self._plans[row].max_new_tokens
            self._alive[row] = self._alive[row] and not is_over
            chosen[row] = token if self._alive[row] else None
        if not any(self._alive):
            return None
        self._said += 1
        self._go_on_with(tokens)
        return chosen

    def _next(self) -> Tensor:
        net = self._model.net
        if self._cache is None:
            self._prefix = self._model.prefill(self._shared)
            self._cache = DynamicCache(config=net.config)
        positions = len(self._shared) + (self._mask.cumsum(1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        hidden = net.model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            prefix=self._prefix,
        ).last_hidden_state
        return self._draw(net.lm_head(hidden[:, -1]).float())

    def _go_on_with(self, tokens: Tensor) -> None:
        """Append the tokens; once half of the rows have ended, go on without those."""
        live = [place for place, row in enumerate(self._rows) if self._alive[row]]
        if self._can_shrink and len(live) <= len(self._rows) // 2:
            self._cache.batch_select_indices(torch.tensor(live))
            self._draw.keep(live)
            tokens, self._mask = tokens[live], self._mask[live]
            self._rows = [self._rows[place] for place in live]
        self._ids = tokens.unsqueeze(1)
        self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)


class Sampler:
    """Chooses a token for each row: greedily, or from the nucleus (top-p) with the row's own random stream."""

    def __init__(self, plans: Sequence[Sampling]) -> None:
        self._is_greedy = torch.tensor([plan.temperature == 0 for plan in plans])
        self._temperature = torch.tensor([plan.temperature or 1.0 for plan in plans]).unsqueeze(1)
        self._top_p = torch.tensor([plan.top_p for plan in plans]).unsqueeze(1)
        self._streams = [torch.Generator().manual_seed(plan.seed) for plan in plans]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows only."""
        self._is_greedy, self._temperature = self._is_greedy[rows], self._temperature[rows]
        self._top_p, self._streams = self._top_p[rows], [self._streams[row] for row in rows]

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
        uniform = torch.stack([torch.rand(1, generator=stream) for stream in self._streams])
        place = torch.searchsorted(heights, uniform * heights[:, -1:]).clamp(max=weights.shape[-1] - 1)
        return torch.where(self._is_greedy, best, order.gather(1, place).squeeze(1))


@contextmanager
def _no_wait() -> Iterator[None]:
    yield


def common_prefix(prompts: Sequence[TokenIds]) -> int:
    """How many tokens all prompts begin with; at least one token of each is left over."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(len(p) for p in prompts) - 1
    for n, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b or n == limit:
            return n
    return limit


def _pad(rows: Sequence[TokenIds], left: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T] of rows of several lengths."""
    width = max(map(len, rows))
    fills = [[0] * (width - len(row)) for row in rows]
    ids = [fill + row if left else row + fill for fill, row in zip(fills, rows, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [fill + one if left else one + fill for fill, one in zip(fills, ones, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def _stop_ids(net: Any, tokenizer: Any) -> set[int]:
    configured = net.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {token for token in (*listed, tokenizer.eos_token_id) if token is not None}


def merged(net: Any, adapter: Path) -> Any:
    """A network with a PEFT adapter's changes in its weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(net, adapter).merge_and_unload()
