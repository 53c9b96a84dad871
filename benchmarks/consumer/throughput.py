"""Records a second: the consumer stage beside a plain poll loop, on the same topic and in the same minutes.

The records are documents that the ledger has, as when a topic is read again from its beginning: all that the stage
does for them is its own (decode and check, look up, group commit), and none waits for a model. The bare loop polls,
parses the JSON and commits after each poll, as a plain consumer does; the durable one also keeps each id in SQLite
before it commits, which is what effects that survive a power cut cost at the least.
"""

import json
import math
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

import kafka

from benchmarks.consumer.lighthouses import new_ledger, worker
from benchmarks.consumer.watched import WatchedTransport
from benchmarks.stream import say
from consumer import intake
from lmt2.config import KafkaSettings, Settings
from lmt2.events import Document, encode
from lmt2.ledger import DocumentRow, now
from lmt2.sqlite import make_durable
from lmt2.stage import Stage
from lmt2.transport import open_transport
from lmt2.transport.base import Outgoing, Record

PARTITIONS = (1, 3, 12)
TEXT = "The mill at Arden was built in 1871 and grinds the corn of six villages. " * 7
BATCH = 1000
POLL_MS = 30_000  # a shorter poll may interrupt kafka-python's join, which then begins anew


class Stopwatch:
    """Measures from the first record read until the last of so many is committed."""

    def __init__(self, records: int) -> None:
        self._left = records
        self._started = self._ended = 0.0

    def read(self, _: Sequence[Any]) -> None:
        """Records were read."""
        self._started = self._started or time.perf_counter()

    def committed(self, records: Sequence[Any]) -> None:
        """These are done, too."""
        self._left -= len(records)
        self._ended = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether all are done."""
        return self._left <= 0

    @property
    def seconds(self) -> float:
        """From the first read to the last commit."""
        return self._ended - self._started


class Race:
    """A topic of documents, and who reads it."""

    def __init__(self, bootstrap: str, partitions: int, records: int, home: Path) -> None:
        self._bootstrap, self._records, self._home = bootstrap, records, home
        self._topic = f"benchmark.{uuid.uuid4().hex}"
        self._settings = Settings(home=home, kafka=KafkaSettings(bootstrap=bootstrap, partitions=partitions))
        self._transport = open_transport(self._settings)
        self._transport.create_topics([self._topic])
        self._ledger = new_ledger(self._settings)
        self._fill()

    def ours(self) -> float:
        """Seconds of the consumer stage."""
        watch = Stopwatch(self._records)

        def on_commit(records: Sequence[Record]) -> None:
            watch.committed(records)
            if watch.is_over:
                stage.stop()

        reader = worker(self._settings, self._ledger)
        reader.topic = self._topic
        transport = WatchedTransport(self._transport, watch.read, on_commit)
        stage = Stage(reader, transport, self._ledger, group_prefix=uuid.uuid4().hex)
        stage.run()
        return watch.seconds

    def bare(self) -> float:
        """Seconds of a plain loop."""
        return self._loop(lambda records: [json.loads(record.value) for record in records])

    def durable(self) -> float:
        """Seconds of a loop that keeps the event of each record in SQLite before it commits."""
        with closing(sqlite3.connect(self._home / f"{uuid.uuid4().hex}.db")) as kept:
            make_durable(kept)
            kept.execute("CREATE TABLE events (source TEXT, id TEXT, PRIMARY KEY (source, id))")

            def keep(records: Sequence[Any]) -> None:
                events = [json.loads(record.value) for record in records]
                with kept:
                    rows = [(event["source"], event["id"]) for event in events]
                    kept.executemany("INSERT OR IGNORE INTO events VALUES (?, ?)", rows)

            return self._loop(keep)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _loop(self, work: Callable[[Sequence[Any]], object]) -> float:
        watch = Stopwatch(self._records)
        client = kafka.KafkaConsumer(
            self._topic,
            bootstrap_servers=self._bootstrap,
            group_id=uuid.uuid4().hex,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        while not watch.is_over:
            records = [record for part in client.poll(POLL_MS).values() for record in part]
            if records:
                watch.read(records)
                work(records)
                client.commit()
                watch.committed(records)
        client.close(autocommit=False)
        return watch.seconds

    def _fill(self) -> None:
        producer = self._transport.producer()
        for batch in _batches(self._records):
            producer.send([self._outgoing(document) for document in batch])
            with self._ledger.begin() as session:
                session.add_all(_row(self._outgoing(document)) for document in batch)
        producer.close()

    def _outgoing(self, document: Document) -> Outgoing:
        value = encode(document, id=f"event-{document.id}", source="benchmark")
        return Outgoing(self._topic, value, document.id.encode())


def compare(race: Race, repeats: int, records: int) -> dict[str, Any]:
    """All readers in turn, several times; rates, and our rate as a share of the others' in the same round."""
    readers = {"ours": race.ours, "bare": race.bare, "durable": race.durable}
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(repeats):
        order = sorted(readers, key=lambda name: random.Random(f"{number} {name}").random())
        for name in order:
            rates[name].append(records / readers[name]())
    ratios = {name: [o / r for o, r in zip(rates["ours"], rates[name], strict=True)] for name in ("bare", "durable")}
    return {
        "records a second": {name: [round(rate) for rate in row] for name, row in rates.items()},
        **{f"of {name}": interval(row) for name, row in ratios.items()},
    }


def interval(ratios: Sequence[float]) -> dict[str, float]:
    """Geometric mean and its 95 % interval by the bootstrap."""
    rng, logs = random.Random(0), [math.log(ratio) for ratio in ratios]
    means = sorted(fmean(rng.choices(logs, k=len(logs))) for _ in range(4000))
    low, middle, high = (math.exp(x) for x in (means[100], fmean(logs), means[-100]))
    return {"low": round(low, 3), "ratio": round(middle, 3), "high": round(high, 3)}


def run(bootstrap: str, home: Path, records: int, repeats: int) -> dict[str, Any]:
    """The whole comparison."""
    report: dict[str, Any] = {}
    for partitions in PARTITIONS:
        folder = home / str(partitions)
        folder.mkdir()
        race = Race(bootstrap, partitions, records, folder)
        report[f"{partitions} partitions"] = compare(race, repeats, records)
        race.close()
        say(json.dumps({f"{partitions} partitions": report[f"{partitions} partitions"]}))
    return report


def _batches(count: int) -> Iterator[list[Document]]:
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        yield [Document(id=f"mill-{number}", text=f"{number}. {TEXT}") for number in numbers]


def _row(sent: Outgoing) -> DocumentRow:
    document, envelope = intake.read(Record(sent.topic, 0, 0, sent.value), len(sent.value))
    return intake.new_row(document, envelope, place="", state="known", event_time=now())
