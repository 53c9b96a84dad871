"""What the serving address needs of an engine: take a request, deliver its text piece by piece."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lmt2.errors import ServingError
from lmt2.models.base import Conversation, Sampling
from memory.versioned import question_of

BASE = "base"  # the name of the untouched model, and of what is served before the first promotion
FinishReason = Literal["stop", "length"]


class QueueFull(ServingError):
    """More requests wait than the engine was told to keep waiting."""


class RequestRefused(ServingError):
    """The engine can't answer this request, ever: the prompt is too long, or there are too many."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Ask:
    """One prompt: raw text, or a conversation that still needs the model's chat template."""

    prompt: str | Conversation
    sampling: Sampling
    stop: tuple[str, ...] = ()
    is_routed: bool = True  # False: the base model answers, whatever is promoted

    @property
    def question(self) -> str:
        """What the router looks at."""
        return self.prompt if isinstance(self.prompt, str) else question_of(self.prompt)


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer. The last one says why it ended, and how many tokens were read and written."""

    text: str
    version: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Delivery:
    """Pieces of one answer on their way to the coroutine that reads them; any thread may put them in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | ServingError] = asyncio.Queue()
        self.is_cancelled = False
        self.on_cancel: Callable[[], object] | None = None

    def put(self, item: Piece | ServingError) -> None:
        """Hand over a piece, or the error that ends the answer."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self.is_cancelled = True

    def cancel(self) -> None:
        """Nobody wants the rest; calling it after the end does no harm."""
        self.is_cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces up to the last; raises the error if there is one."""
        while True:
            item = await self._queue.get()
            if isinstance(item, ServingError):
                raise item
            yield item
            if item.finish_reason is not None:
                return


class Backend(Protocol):
    """An engine behind the serving address."""

    def submit(self, asks: Sequence[Ask]) -> list[Delivery]:
        """Take prompts that one version must answer; called in the event loop, returns at once.

        Raises:
            QueueFull: try again later.
            RequestRefused: it can't be answered.
        """
        ...

    async def close(self) -> None:
        """Finish what runs, fail what waits, let go of everything."""
        ...
