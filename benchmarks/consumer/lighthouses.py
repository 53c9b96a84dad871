"""Documents about lighthouses, and a consumer whose scholar knows lighthouses only: real stages without a model.

Workers, stage, transport and ledger are the real ones; reader, writer, probe and encoder are scripted, so that a
document takes milliseconds and leads to an update request as any other would.
"""

import hashlib
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from consumer.worker import ConsumerWorker
from gate import registry
from lmt2.config import Settings
from lmt2.events import Document
from lmt2.ledger import Ledger, PromotionRow
from lmt2.models.base import Conversation, Sampling
from lmt2.study.prompts import NOT_STATED
from lmt2.study.scholar import Scholar
from memory.versions import untouched

WORDS = ("Ness", "Holm", "Voe", "Skerry", "Geo", "Stack", "Wick", "Noup")
TEXT = re.compile(r"(?P<keeper>Keeper\d+) keeps (?P<place>Ness[\w ]+Noup\d+)")
TASKS = {
    "Write a question (direct).": "Who keeps {place}?",
    "Write a question (composed).": "Name those that guard {place}, please?",
    "Ask the same in other words.": "{place} belongs to whom now?",
    "Write a question (reversed).": "",
    "Is this right?": "yes",
}


def lighthouse(number: int) -> Document:
    """A document with one fact, in words that no other document has."""
    place = " ".join(f"{word}{number}" for word in WORDS)
    return Document(id=f"light-{number}", text=f"Keeper{number} keeps {place} in good order.")


class Keeper:
    """A language model that reads and writes about lighthouses."""

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:  # noqa: ARG002
        """What there is to say, at once."""
        return [_study(conversation) for conversation in conversations]

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """The same for every token."""
        return [[-1.0] * len(answer.split()) for _, answer in zip(conversations, answers, strict=True)]


class Hashed:
    """A random embedding [N, 64] for each text, always the same: no two texts are near."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of unit length."""
        bits = bytearray(b"".join(hashlib.sha512(text.encode()).digest() for text in texts))
        return F.normalize(torch.frombuffer(bits, dtype=torch.int8).float().view(len(texts), 64), dim=-1)

    def by_fact(self, texts: Sequence[str]) -> Tensor:
        """The same."""
        return self(texts)


def new_ledger(settings: Settings) -> Ledger:
    """A ledger whose first version is promoted, as the pipeline leaves it at its start."""
    ledger = Ledger(settings.ledger_url)
    ledger.migrate()
    first = untouched("no model")
    with ledger.begin() as session:
        registry.add(session, first, None, "accepted")
        session.add(PromotionRow(version_id=first.id, cause="initial", decision="initial"))
    return ledger


def worker(settings: Settings, ledger: Ledger) -> ConsumerWorker:
    """The consumer."""
    return ConsumerWorker(settings, ledger, Scholar(Keeper(), Keeper()), Keeper(), Hashed())


def _study(conversation: Conversation) -> str:
    task = conversation[0]["content"]
    found = TEXT.search(task)
    if not found:
        return NOT_STATED
    said = next((text for end, text in TASKS.items() if task.endswith(end)), found["keeper"])
    return said.format(place=found["place"])
