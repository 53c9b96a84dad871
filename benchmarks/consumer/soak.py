"""Fifty thousand small events through a slow stage: does its memory grow?

One in a hundred is a new lighthouse, one in twenty no document, all others repeats; every record waits a moment. What
counts is the resident memory after a tenth of them against the end.
"""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from benchmarks.consumer.lighthouses import lighthouse, new_ledger, worker
from benchmarks.consumer.watched import WatchedTransport
from consumer.worker import ConsumerWorker
from lmt2.config import Settings
from lmt2.errors import EventError
from lmt2.events import DOCUMENTS, TOPICS, encode
from lmt2.stage import Outcome, Stage, Worker
from lmt2.transport import open_transport
from lmt2.transport.base import Outgoing, Record

WAIT_SECONDS = 0.001
BATCH = 1000


class Slow(Worker):
    """A consumer that waits a moment for each record."""

    def __init__(self, reader: ConsumerWorker) -> None:
        self.name, self.topic = reader.name, reader.topic
        self._reader = reader

    def settle(self, records: Sequence[Record], session: Session) -> Iterator[Outcome | EventError]:
        """As the consumer, slowly."""
        for outcome in self._reader.settle(records, session):
            time.sleep(WAIT_SECONDS)
            yield outcome

    def work(self, record: Record) -> Outcome:
        """As the consumer, slowly."""
        time.sleep(WAIT_SECONDS)
        return self._reader.work(record)


def run(settings: Settings, count: int) -> dict[str, Any]:
    """Fill the topic, then run the stage through it in this process."""
    transport = open_transport(settings)
    transport.create_topics(TOPICS)
    _fill(transport.producer(), count)
    ledger = new_ledger(settings)
    memory: dict[int, float] = {}

    def on_commit(records: Sequence[Record]) -> None:
        done = records[-1].offset + 1
        if done >= count // 10 * (len(memory) + 1):
            memory[done] = resident_mb()
        if done == count:
            stage.stop()

    watched = WatchedTransport(transport, lambda _: None, on_commit)
    stage = Stage(Slow(worker(settings, ledger)), watched, ledger)
    started = time.monotonic()
    stage.run()
    ledger.close()
    first, *_, last = memory.values()
    return {
        "events": count,
        "seconds": round(time.monotonic() - started),
        "resident MB": memory,
        "growth": round(last / first - 1, 4),
    }


def resident_mb() -> float:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return round(kilobytes / 1024, 1)


def _fill(producer: Any, count: int) -> None:
    for start in range(0, count, BATCH):
        producer.send([_event(number) for number in range(start, min(start + BATCH, count))])
    producer.close()


def _event(number: int) -> Outgoing:
    rng = random.Random(number)
    if number % 20 == 7:
        return Outgoing(DOCUMENTS, b'{"txt": %d}' % number)
    document = lighthouse(number // 100 if number % 100 == 0 else rng.randint(0, number // 100))
    return Outgoing(DOCUMENTS, encode(document, id=f"event-{document.id}", source="soak"), document.id.encode())
