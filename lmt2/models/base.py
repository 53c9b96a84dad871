"""The one interface in front of every language model: a local one, vLLM, or any OpenAI-compatible endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict


class Message(TypedDict):
    """One turn of a conversation; role is `system`, `user` or `assistant`."""

    role: str
    content: str


Conversation = list[Message]
TokenIds = list[int]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. Temperature 0 is greedy."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class LanguageModel(Protocol):
    """A model that answers conversations and scores answers; both take a batch and keep its order."""

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """One answer for each conversation, without its end-of-turn token."""
        ...

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """Natural-log probability of each token of each answer, given its conversation."""
        ...
