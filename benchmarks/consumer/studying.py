"""Structuring and scoring beside the same model in the plainest batched loop.

Ours writes down every call that it makes of a model; the plain loop then makes the same calls the way a first script
would: prompts padded to one length, transformers' `generate` for answers, one forward pass over prompt and answer for
likelihoods, 64 at a time. Document after document, ours and then the plain loop, so both meet the same machine.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from benchmarks import facts as fact_files
from benchmarks.stream import say
from consumer.kaft import score
from consumer.structuring import structure
from lmt2.config import Settings
from lmt2.events import Document
from lmt2.models.assets import model_path
from lmt2.models.base import Conversation, Sampling
from lmt2.models.decoding import padded
from lmt2.models.encoder import Encoder
from lmt2.models.local import ROWS, LocalModel
from lmt2.study.lessons import LessonWriter
from lmt2.study.scholar import ADAPTERS, Scholar

Call = Callable[[], object]


@dataclass
class Calls:
    """What was asked of models, as calls of the plain loop."""

    made: list[Call] = field(default_factory=list)

    def again(self) -> None:
        """Make all of them."""
        for call in self.made:
            call()


class Noted(LocalModel):
    """A model that notes what it is asked."""

    def __init__(self, folder: Path, dtype: str, calls: Calls, adapter: Path | None = None) -> None:
        super().__init__(folder, dtype, adapter)
        self._calls = calls

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """As the model, noted."""
        self._calls.made.append(partial(plain_answers, self, conversations, sampling))
        return super().generate(conversations, sampling)

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """As the model, noted."""
        self._calls.made.append(partial(plain_likelihoods, self, conversations, answers))
        return super().logprobs(conversations, answers)


@torch.no_grad()
def plain_answers(model: LocalModel, conversations: Sequence[Conversation], sampling: Sampling) -> None:
    """Answers by transformers' own `generate`."""
    tuned: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        tuned = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    for start in range(0, len(conversations), ROWS):
        ids, mask = padded([model.encode(c) for c in conversations[start : start + ROWS]], left=True)
        limit, end = sampling.max_new_tokens, model.tokenizer.eos_token_id
        model.net.generate(ids, attention_mask=mask, max_new_tokens=limit, pad_token_id=end, **tuned)


@torch.no_grad()
def plain_likelihoods(model: LocalModel, conversations: Sequence[Conversation], answers: Sequence[str]) -> None:
    """Likelihoods by one forward pass over whole prompts with their answers."""
    texts = [model.encode(c) + model.encode_text(a) for c, a in zip(conversations, answers, strict=True)]
    for start in range(0, len(texts), ROWS):
        ids, mask = padded(texts[start : start + ROWS], left=False)
        logits = model.net(ids, attention_mask=mask).logits[:, :-1]
        logits.log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2))


def run(folder: Path, settings: Settings, first: int) -> dict[str, Any]:
    """Seconds of both for some documents, and the geometric mean of their ratios."""
    calls, base, dtype = Calls(), model_path(settings.model.name), settings.model.dtype
    scholar = Scholar(Noted(base, dtype, calls, ADAPTERS / "reader"), Noted(base, dtype, calls, ADAPTERS / "writer"))
    probe, encoder = Noted(base, dtype, calls), Encoder(model_path(settings.model.encoder))
    writer = LessonWriter(scholar, encoder, settings.study)

    def study(document: Document) -> None:
        found = structure(document, writer)
        score([*found.lessons, *found.probes], probe, settings.consumer)

    rows: list[tuple[float, float]] = []
    for document in fact_files.documents(folder)[:first]:
        calls.made.clear()
        ours = _seconds(partial(study, document))
        plain = _seconds(calls.again)
        rows.append((ours, plain))
        say(f"{document.id}: ours {ours:.0f} s, plain {plain:.0f} s, {plain / ours:.2f} times as fast")
    ratios = [plain / ours for ours, plain in rows]
    return {
        "documents": len(rows),
        "ours, documents a minute": round(60 * len(rows) / sum(ours for ours, _ in rows), 2),
        "plain, documents a minute": round(60 * len(rows) / sum(plain for _, plain in rows), 2),
        "times as fast, geometric mean": round(prod(ratios) ** (1 / len(ratios)), 2),
        "times as fast": [round(ratio, 2) for ratio in ratios],
    }


def _seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started
