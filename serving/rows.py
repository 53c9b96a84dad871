"""The requests that are being answered: decoded together, each through what its own version routes it to."""

from collections.abc import Sequence

from lmt2.models.base import Sampling, TokenIds
from lmt2.models.decoding import Batch
from lmt2.models.local import LocalModel
from memory.routing import Route
from memory.shards import Delta
from memory.versioned import VersionedModel
from memory.wise import side_of
from serving.backend import BASE, Ask, Delivery, FinishReason, Piece
from serving.text import Detokeniser, StopFinder


class Row:
    """One prompt in the engine: what came in, and how far its answer is."""

    def __init__(self, ask: Ask, prompt: TokenIds, sampling: Sampling, model: LocalModel) -> None:
        self.ask = ask
        self.prompt = prompt
        self.sampling = sampling
        self.version = BASE
        self.delta: Delta | None = None
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


class Rows:
    """What is being decoded: rows come in between two steps, and leave as soon as they are over."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self._batch: Batch | None = None
        self.live: list[Row] = []

    def admit(self, rows: Sequence[Row], version: VersionedModel | None) -> None:
        """Read prompts, which this version answers from the first token to the last, and say a token of each."""
        route(rows, version)
        new = Batch(self._model.net, [row.prompt for row in rows], [row.sampling for row in rows])
        self._say(new, rows)
        if self._batch is None:
            self._batch, self.live = new, list(rows)
        else:
            self._batch.join(new)
            self.live += rows
        self._drop()

    def step(self) -> None:
        """One more token of every answer."""
        if self._batch is not None:
            self._say(self._batch, self.live)
            self._drop()

    def clear(self) -> list[Row]:
        """Give all of them up; whoever waits for them has to be told."""
        rows, self.live, self._batch = self.live, [], None
        return rows

    def _say(self, batch: Batch, rows: Sequence[Row]) -> None:
        with self._model.use(side_of([row.delta for row in rows])):
            tokens = batch.step()
        for row, token in zip(rows, tokens, strict=True):
            row.take(None if token in self._model.stop_ids else token)

    def _drop(self) -> None:
        places = [place for place, row in enumerate(self.live) if not row.is_over]
        if not places:
            self.clear()
        elif self._batch is not None and len(places) < len(self.live):
            self._batch.keep(places)
            self.live = [self.live[place] for place in places]


def route(rows: Sequence[Row], version: VersionedModel | None) -> None:
    """Name the version on each row that it answers, with what it goes through."""
    asking = [row for row in rows if row.ask.is_routed]
    if version is None or not asking:
        return
    routes: list[Route | None] = version.route([row.ask.question for row in asking])
    for row, delta in zip(asking, version.deltas(routes), strict=True):
        row.version, row.delta = version.manifest.id, delta
