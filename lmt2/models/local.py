"""A Llama-like transformers model on this machine: batched generation, scoring, and a place for side memories.

Shape legend: B rows of a batch, T tokens, V vocabulary, D hidden, F the MLP's inner width.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmt2.errors import ModelError
from lmt2.models.base import Conversation, Sampling, TokenIds
from lmt2.models.compute import compute
from lmt2.models.decoding import Batch, padded
from lmt2.models.precision import dtype_of
from lmt2.models.shared_prefix import NAME, prefill

ROWS = 64  # rows of one generation batch; more rows win nothing on a CPU and cost memory


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
                prefix = prefill(self.net, heads[0][:shared])
                ids, mask = padded(texts, left=False)
                positions = shared + torch.arange(ids.shape[1]).unsqueeze(0)
                hidden = self.net.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, prefix=prefix
                ).last_hidden_state
            for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
                first = len(head) - shared - 1
                yield self.net.lm_head(hidden[row, first : first + len(tail)]).float()

    def stream(self, prompts: Sequence[TokenIds], plans: Sequence[Sampling]) -> Iterator[list[int | None]]:
        """Decode a batch step by step: each step yields one token a row, None for rows that have ended.

        An end-of-turn token ends its row and is not yielded.
        """
        batch = Batch(self.net, prompts, plans, self.shared(prompts))
        rows = list(range(len(prompts)))  # the prompt behind each row of the batch
        alive = set(rows)
        for said in itertools.count(1):
            with compute.background():
                tokens = dict(zip(rows, batch.step(), strict=True))
            alive -= {row for row in alive if tokens[row] in self.stop_ids}
            if not alive:
                return
            yield [tokens[row] if row in alive else None for row in range(len(prompts))]
            alive -= {row for row in alive if said == plans[row].max_new_tokens}
            if not alive:
                return
            if len(alive) <= len(rows) // 2 and not self.has_side:  # a side memory counts on the rows it was made for
                batch.keep([place for place, row in enumerate(rows) if row in alive])
                rows = [row for row in rows if row in alive]

    def shared(self, prompts: Sequence[TokenIds]) -> int:
        """How many tokens to compute once for all rows: none under a side memory, where rows may differ in shard."""
        return 0 if self.has_side else common_prefix(prompts)

    def _hook(self, layer: int) -> Any:
        def through_side(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            side: Side | None = getattr(self._mine, "side", None)
            return output if side is None else side.add(layer, inputs[0], output)

        return through_side


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


def _stop_ids(net: Any, tokenizer: Any) -> set[int]:
    configured = net.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {token for token in (*listed, tokenizer.eos_token_id) if token is not None}


def merged(net: Any, adapter: Path) -> Any:
    """A network with a PEFT adapter's changes in its weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(net, adapter).merge_and_unload()
