"""The embedded engine: one thread that answers waiting requests in batches on this machine's own model.

Requests for any mix of models, shards and sampling share a batch. The version is read once, when a batch
begins: a swap takes effect between batches, and each answer is one version's work from its first token on.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Sequence

from lmt2.errors import ServingError
from lmt2.models.base import Conversation, Sampling
from lmt2.models.compute import compute
from lmt2.models.local import LocalModel, TokenIds
from lmt2.telemetry import logger
from memory.routing import Route
from memory.versioned import VersionedModel
from memory.wise import RoutedRows
from serving.backend import BASE, Ask, Delivery, FinishReason, Piece, QueueFull, RequestRefused
from serving.text import Detokeniser, StopFinder

GATHER_SECONDS = 0.005  # what an idle engine waits for company of a first request


class Row:
    """One prompt in the engine: what came in, and how far its answer is."""

    def __init__(self, ask: Ask, prompt: TokenIds, sampling: Sampling, model: LocalModel) -> None:
        self.ask = ask
        self.prompt = prompt
        self.sampling = sampling
        self.version = BASE
        self.delivery = Delivery()
        self._characters = Detokeniser(model.decode)
        self._stops = StopFinder(ask.stop)
        self._tokens = 0
        self._has_ended = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be decoded for this row."""
        return self._has_ended or self.delivery.is_cancelled

    def take(self, token: int | None) -> None:
        """Deliver what a token makes certain; None is the model's end of turn."""
        if self.is_over:
            return
        if token is None:
            self._end("stop")
            return
        self._tokens += 1
        text = self._stops.add(self._characters.add(token))
        if self._stops.is_found:
            self._end("stop", text)
        elif self._tokens == self.sampling.max_new_tokens:
            self._end("length", text)
        elif text:
            self.delivery.put(Piece(text, self.version))

    def _end(self, reason: FinishReason, text: str = "") -> None:
        self._has_ended = True
        if not self._stops.is_found:
            text += self._stops.add(self._characters.flush())
            reason = "stop" if self._stops.is_found else reason
            text += self._stops.flush()
        self.delivery.put(Piece(text, self.version, reason, len(self.prompt), self._tokens))


class EmbeddedEngine:
    """Answers from the local model. It is both a backend of the address and a target of the reconciler."""

    def __init__(self, model: LocalModel, max_batch: int, max_queue: int, name: str | None = None) -> None:
        self.name = name or socket.gethostname()
        self._model = model
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._context: int = model.net.config.max_position_embeddings
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
        """Serve another version from the next batch on; None is the base model alone."""
        self._version = version

    def served(self) -> str | None:
        """The name of the version that the next batch will be answered by."""
        version = self._version
        return None if version is None else version.manifest.id

    async def close(self) -> None:
        """The same as `stop`, for the event loop."""
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Finish the batch that runs and fail the requests that wait."""
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
        while rows := self._next_batch():
            try:
                with compute.serving():
                    self._answer(rows, self._version)
            except Exception as error:  # noqa: BLE001 - one batch must not end the service
                for row in rows:  # before anything else that may fail: somebody waits for it
                    row.delivery.put(ServingError(f"the answer failed: {type(error).__name__}: {error}"))
                self._log.exception("a batch failed", rows=len(rows))
        self._fail_waiting()

    def _next_batch(self) -> list[Row]:
        """Wait for requests and take as many as fit; none when the engine closes."""
        rows: list[Row] = []
        with self._changed:
            while not rows and not self._is_closing:
                self._changed.wait_for(lambda: self._is_closing or bool(self._waiting))
                self._changed.wait_for(lambda: self._is_closing or self._count() >= self._max_batch, GATHER_SECONDS)
                while self._waiting and len(rows) + len(self._waiting[0]) <= self._max_batch:
                    rows += [row for row in self._waiting.popleft() if not row.is_over]
        return rows

    def _count(self) -> int:
        return sum(not row.is_over for group in self._waiting for row in group)

    def _answer(self, rows: list[Row], version: VersionedModel | None) -> None:
        side = self._route(rows, version)
        prompts, plans = [row.prompt for row in rows], [row.sampling for row in rows]
        with self._model.use(side):
            for tokens in self._model.stream(prompts, plans, in_foreground=True):
                for row, token in zip(rows, tokens, strict=True):
                    row.take(token)
                if all(row.is_over for row in rows):
                    return
        for row in rows:  # the last ones ended in a step that yields nothing any more
            row.take(None)

    def _route(self, rows: list[Row], version: VersionedModel | None) -> RoutedRows | None:
        """Name the version on each row that it answers, and send each through its shard."""
        routes: list[Route | None] = [None] * len(rows)
        asking = [place for place, row in enumerate(rows) if row.ask.is_routed]
        if version is None or not asking:
            return None
        found = version.route([rows[place].ask.question for place in asking])
        for place, route in zip(asking, found, strict=True):
            rows[place].version = version.manifest.id
            routes[place] = route
        return version.side(routes)

    def _fail_waiting(self) -> None:
        with self._changed:
            rows = [row for group in self._waiting for row in group]
            self._waiting.clear()
        for row in rows:
            row.delivery.put(ServingError("the engine shut down before this request's turn"))
