"""`--wait` of `lmt2 produce` and `retract`: a bar for each document until all of them are decided on."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lmt2.errors import EventError
from lmt2.events import DEAD_LETTERS, Document, decode
from lmt2.follow import STEPS, follow, follow_retraction
from lmt2.follow import Progress as Way
from lmt2.ledger import Ledger
from lmt2.transport.base import Record, Transport

LOOK_SECONDS = 0.5
DEAD_LETTER_SECONDS = 5.0  # how often dead letters are looked through for documents that the ledger doesn't know
REFUSED = "dead letter"


class Following:
    """Watches the ledger, and for what never gets there the dead letters.

    Args:
        ledger: where documents' states are.
        transport: where the dead letters are.
        documents: what was sent, texts or retractions.
        since: when, in seconds since the epoch; a dead letter of an earlier attempt doesn't count.
    """

    def __init__(self, ledger: Ledger, transport: Transport, documents: Sequence[Document], since: float) -> None:
        self._ledger = ledger
        self._transport = transport
        self._documents = documents
        self._since = since
        self._refused: dict[str, Way] = {}
        self._next_look = time.monotonic() + DEAD_LETTER_SECONDS
        self._bars = Progress(
            TextColumn("{task.fields[title]:<28.28}", markup=False),
            BarColumn(20),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {
            document.id: self._bars.add_task("sent", total=STEPS, title=document.title or document.id)
            for document in documents
        }

    def until_decided(self, timeout: float) -> list[Way]:
        """Where the documents are when all are decided on or refused, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._bars:
            while True:
                ways = self._look()
                for way in ways:
                    self._bars.update(self._tasks[way.document], completed=way.step, description=way.detail)
                if all(way.is_decided or way.state == REFUSED for way in ways) or time.monotonic() > deadline:
                    return ways
                time.sleep(LOOK_SECONDS)

    def _look(self) -> list[Way]:
        texts = [document for document in self._documents if not document.retracted]
        since = datetime.fromtimestamp(self._since, UTC)
        with self._ledger.begin() as session:
            ways = follow(session, texts)
            ways += [follow_retraction(session, d.id, since) for d in self._documents if d.retracted]
        if any(not way.state for way in ways) and time.monotonic() > self._next_look:
            self._refused = self._find_refused()
            self._next_look = time.monotonic() + DEAD_LETTER_SECONDS
        return [way if way.state else self._refused.get(way.document, way) for way in ways]

    def _find_refused(self) -> dict[str, Way]:
        found = {}
        for letter in self._transport.read_all(DEAD_LETTERS):
            if float(letter.headers["lmt2-time"]) >= self._since and (document := _document(letter)) is not None:
                found[document.id] = Way(document.id, REFUSED, 0, letter.headers["lmt2-message"].decode())
        return found


def outcomes(ways: Sequence[Way]) -> list[str]:
    """A line for each document."""
    return [f"{way.document}: {way.state or 'undecided'} ({way.detail})" for way in ways]


def _document(letter: Record) -> Document | None:
    try:
        return decode(letter.value, Document, letter.headers)[0]
    except EventError:
        return None  # it was sent by somebody else: what is sent here can be decoded
