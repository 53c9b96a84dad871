"""The embedded engine: one thread that answers requests on this machine's own model, all of them step by step together.

Requests for any mix of versions, shards and sampling share the steps. One that comes is taken in before the next step,
by the version that is served then: a swap takes effect at once for what comes after it, and each answer is one
version's work from its first token to its last.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence

from lmt2.errors import ServingError
from lmt2.models.base import Conversation, Sampling, TokenIds
from lmt2.models.compute import compute
from lmt2.models.local import LocalModel
from lmt2.telemetry import logger
from memory.versioned import VersionedModel
from serving.backend import Ask, Delivery, QueueFull, RequestRefused
from serving.rows import Row, Rows

STEPS_AT_ONCE = 64  # then whoever studies or trains in the background and has waited long may take a step


class EmbeddedEngine:
    """Answers from the local model. It is both a backend of the address and a target of the reconciler."""

    def __init__(self, model: LocalModel, max_batch: int, max_queue: int, name: str | None = None) -> None:
        self.name = name or socket.gethostname()
        self._model = model
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._context: int = model.net.config.max_position_embeddings
        self._rows = Rows(model)
        self._version: VersionedModel | None = None
        self._waiting: deque[list[Row]] = deque()  # prompts of one request stay together: one version answers them
        self._changed = threading.Condition()
        self._is_closing = False
        self._log = logger("serving")
        self._thread = threading.Thread(target=self._run, name="serving-engine", daemon=True)
        self._thread.start()

    def submit(self, asks: Sequence[Ask]) -> list[Delivery]:
        """Queue the prompts of one request."""
        if len(asks) > self._max_batch:
            raise RequestRefused(f"{len(asks)} prompts in one request: at most {self._max_batch} are allowed")
        rows = [self._row(ask) for ask in asks]
        with self._changed:
            if self._is_closing:
                raise ServingError("the engine is shutting down")
            if self._count() + len(rows) > self._max_queue:
                raise QueueFull(f"{self._max_queue} requests are waiting already: try again later")
            self._waiting.append(rows)
            self._changed.notify()
        return [row.delivery for row in rows]

    def swap(self, version: VersionedModel | None) -> None:
        """Let another version answer what is taken in from now on; None is the base model alone."""
        self._version = version

    def served(self) -> str | None:
        """The name of the version that the next request will be answered by."""
        version = self._version
        return None if version is None else version.manifest.id

    async def close(self) -> None:
        """The same as `stop`, for the event loop."""
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Finish the answers that have begun and fail the requests that wait."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _row(self, ask: Ask) -> Row:
        prompt = self._tokens_of(ask.prompt)
        room = self._context - len(prompt)
        if room < 1:
            raise RequestRefused(
                f"the prompt has {len(prompt)} tokens and the model's context {self._context}: shorten the prompt",
                code="context_length_exceeded",
            )
        if not prompt:
            raise RequestRefused("the prompt is empty")
        plan = ask.sampling
        limit = min(plan.max_new_tokens, room)
        return Row(ask, prompt, Sampling(limit, plan.temperature, plan.top_p, plan.seed), self._model)

    def _tokens_of(self, prompt: str | Conversation) -> TokenIds:
        if not isinstance(prompt, str):
            return self._model.encode(prompt)
        ids: TokenIds = self._model.tokenizer(prompt)["input_ids"]  # raw text begins as the tokenizer has it begin
        return ids

    def _run(self) -> None:
        while self._has_work():
            with compute.serving():
                for _ in range(STEPS_AT_ONCE):
                    self._advance()
                    if not self._rows.live:
                        break
        self._fail_waiting()

    def _has_work(self) -> bool:
        """Whether there is something to answer, now or after waiting for it; not when the engine closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or bool(self._waiting) or bool(self._rows.live))
        return bool(self._rows.live) or not self._is_closing

    def _advance(self) -> None:
        """Take in who fits, and one step for all."""
        if new := self._arrivals():
            self._attempt(lambda: self._rows.admit(new, self._version), lambda: new)
        self._attempt(self._rows.step, self._rows.clear)

    def _attempt(self, action: Callable[[], None], given_up: Callable[[], list[Row]]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - what fails here must not end the service
            rows = given_up()
            for row in rows:  # before anything else that may fail: somebody waits for it
                row.delivery.put(ServingError(f"the answer failed: {type(error).__name__}: {error}"))
            self._log.exception("a step failed", rows=len(rows))

    def _arrivals(self) -> list[Row]:
        """The waiting requests that there is room for."""
        rows: list[Row] = []
        with self._changed:
            while self._waiting and not self._is_closing:
                if len(self._rows.live) + len(rows) + len(self._waiting[0]) > self._max_batch:
                    break
                rows += [row for row in self._waiting.popleft() if not row.is_over]
        return rows

    def _count(self) -> int:
        return sum(not row.is_over for group in self._waiting for row in group)

    def _fail_waiting(self) -> None:
        with self._changed:
            rows = [row for group in self._waiting for row in group]
            self._waiting.clear()
        for row in rows:
            row.delivery.put(ServingError("the engine shut down before this request's turn"))
