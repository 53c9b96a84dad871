"""A base model for methods of learning: a tiny one for targets, and what it says is scripted."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lmt2.models.base import Conversation, Sampling
from lmt2.models.local import LocalModel


class Talker(LocalModel):
    """Says what a function of the conversation says, and remembers what it was asked."""

    def __init__(self, folder: Path, says: Callable[[Conversation], str]) -> None:
        super().__init__(folder, "float32")
        self.asked: list[str] = []
        self._says = says

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:  # noqa: ARG002
        """One answer for each conversation."""
        self.asked += [conversation[-1]["content"] for conversation in conversations]
        return [self._says(conversation) for conversation in conversations]
