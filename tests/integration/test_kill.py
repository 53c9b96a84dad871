"""Killed fifty times at random moments and started again, the pipeline loses no document and promotes none twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from benchmarks.consumer.lighthouses import lighthouse
from lmt2.events import DEAD_LETTERS, DECISIONS, DOCUMENTS, Decision, Document, decode
from lmt2.ledger import TERMINAL, DecisionRow, DocumentRow, Ledger, OutboxRow, PromotionRow, UpdateRow, VersionRow
from lmt2.transport.base import Outgoing
from lmt2.transport.embedded import EmbeddedTransport
from memory.versions import Manifest
from producer.client import DocumentProducer
from tests.support.tiny import tiny_model

ROUNDS = 50
LONGEST_LIFE = 2.5  # seconds until a pipeline is killed
LAST_SECONDS = 300.0  # a fraction of it on a machine that has nothing else to do
SEED = 20261


class Victim:
    """Pipelines that are started and killed one after another."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log
        self._pid = process.pid

    def start(self, order: str) -> None:
        """Start one: `free`, or `at N` to have it kill itself at its Nth boundary."""
        assert self._process.stdin
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        self._pid = int(self._line())

    def kill(self) -> None:
        """Kill it if it lives; it must not have ended in any other way."""
        status = self._end(signal.SIGKILL)
        assert os.WIFSIGNALED(status), f"the pipeline ended by itself:\n{self._log.read_text()[-4000:]}"

    def stop(self) -> None:
        """Ask it to end; it must do so in order."""
        assert self._end(signal.SIGTERM) == 0, self._log.read_text()[-4000:]

    def clear_away(self) -> None:
        """End whatever still runs, whatever became of the test."""
        self._signal(signal.SIGKILL)
        self._process.kill()

    def is_alive(self) -> bool:
        """Whether it runs; an ended one is a zombie only for a moment, until it is waited for."""
        return self._signal(0)

    def _end(self, number: int) -> int:
        self._signal(number)
        return int(self._line())

    def _signal(self, number: int) -> bool:
        """Send a signal; returns whether there was anybody to hear it."""
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:
            return False
        return True

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


@contextmanager
def victims(home: Path, model: Path) -> Iterator[Victim]:
    """A process that forks pipelines; its log is HOME/log."""
    command = [sys.executable, "-m", "tests.support.kill", str(home), str(model)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        victim = Victim(process, home / "log")
        with process:
            try:
                yield victim
            finally:
                victim.clear_away()


@dataclass
class Stream:
    """What was sent: documents, some of them twice, some taken back, and now and then what is no document."""

    transport: EmbeddedTransport
    rng: random.Random
    documents: list[Document] = field(default_factory=list)
    malformed: list[bytes] = field(default_factory=list)
    repeats: int = 0
    retracted: set[str] = field(default_factory=set)

    def send(self) -> None:
        """One more record."""
        chance = self.rng.random()
        with DocumentProducer(self.transport) as producer:
            if chance < 0.15:
                self.malformed.append(b'{"id": "broken-%d", "txt": 1}' % len(self.malformed))
            elif chance < 0.3 and self.documents:
                document = self.rng.choice(self.documents)
                producer.send([document])
                self.repeats += 1
                self.retracted.discard(document.id)  # the last word counts
            elif chance < 0.4 and self.documents:
                name = self.rng.choice(self.documents).id
                producer.retract(name)
                self.retracted.add(name)
            else:
                self._send_new(producer)
        if chance < 0.15:
            raw = self.transport.producer()
            raw.send([Outgoing(DOCUMENTS, self.malformed[-1])])
            raw.close()

    def end(self) -> None:
        """A last document: when it is decided on, all before it was read."""
        with DocumentProducer(self.transport) as producer:
            self._send_new(producer)

    def _send_new(self, producer: DocumentProducer) -> None:
        self.documents.append(lighthouse(len(self.documents)))
        producer.send([self.documents[-1]])


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def run_rounds(victim: Victim, stream: Stream, rng: random.Random) -> None:
    """Kill at random moments and, every other time, at random boundaries."""
    for number in range(ROUNDS):
        stream.send()
        if number % 2:
            victim.start(f"at {rng.randint(1, 20)}")
            wait_for(lambda: not victim.is_alive(), LONGEST_LIFE)
        else:
            victim.start("free")
            wait_for(lambda: False, rng.uniform(0, LONGEST_LIFE))
        victim.kill()


def undecided(ledger: Ledger, stream: Stream) -> int:
    """Documents that were sent and not decided on."""
    with ledger.begin() as session:
        query = select(func.count()).where(DocumentRow.state.in_(TERMINAL))
        return len(stream.documents) - (session.scalar(query) or 0)


@pytest.mark.model
@pytest.mark.slow
def test_nothing_is_lost_and_nothing_done_twice(smollm2: Path, tmp_path: Path) -> None:
    home, rng = tmp_path / "home", random.Random(SEED)
    home.mkdir()
    stream = Stream(EmbeddedTransport(home / "events.db"), random.Random(SEED + 1))
    ledger = Ledger(f"sqlite:///{home / 'ledger.db'}")
    with victims(home, tiny_model(tmp_path / "model")) as victim:
        run_rounds(victim, stream, rng)
        stream.end()
        victim.start("free")
        assert wait_for(lambda: (home / "ledger.db").exists(), LAST_SECONDS)
        assert wait_for(lambda: undecided(ledger, stream) == 0 and not owed(ledger), LAST_SECONDS), (
            f"{undecided(ledger, stream)} of {len(stream.documents)} documents are undecided"
        )
        assert wait_for(lambda: set(dead(stream)) == set(stream.malformed), LAST_SECONDS)
        victim.stop()
    check(ledger, stream)
    ledger.close()


def owed(ledger: Ledger) -> int:
    """Records that stages still owe the log."""
    with ledger.begin() as session:
        return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


def dead(stream: Stream) -> list[bytes]:
    """Values of all dead letters; one may stand there twice, as delivery is at least once."""
    return [record.value for record in stream.transport.read_all(DEAD_LETTERS)]


def check(ledger: Ledger, stream: Stream) -> None:
    """Count, print, and compare with what was sent."""
    with ledger.begin() as session:
        documents = {row.id: row.state for row in session.scalars(select(DocumentRow))}
        updates = [row.state for row in session.scalars(select(UpdateRow))]
        versions = {row.id: row for row in session.scalars(select(VersionRow))}
        decided = select(DecisionRow.version_id).where(DecisionRow.reason != "rebased")  # that is a note, not a verdict
        decisions = list(session.scalars(decided))
        promotions = list(session.scalars(select(PromotionRow).order_by(PromotionRow.seq)))
    told = [decode(record.value, Decision)[0].version for record in stream.transport.read_all(DECISIONS)]
    promoted = [row.version_id for row in promotions if row.cause == "promotion"]
    counts = {
        "rounds": ROUNDS,
        "documents sent": len(stream.documents),
        "repeats sent": stream.repeats,
        "malformed sent": len(stream.malformed),
        "retracted in the end": len(stream.retracted),
        "documents by state": dict(Counter(documents.values())),
        "updates by state": dict(Counter(updates)),
        "promotions": len(promoted),
        "dead letters": len(dead(stream)),
    }
    print(json.dumps(counts, indent=2))
    # Nothing lost: every document decided, every malformed record a dead letter, every decision told.
    assert set(documents) == {document.id for document in stream.documents}
    assert set(documents.values()) <= set(TERMINAL)
    assert {name for name, state in documents.items() if state == "retracted"} == stream.retracted
    assert set(updates) <= {"decided", "failed", "withdrawn"}
    assert set(told) == set(decisions)
    # Nothing twice: one version an update, one promotion a version.
    assert len(set(promoted)) == len(promoted)
    assert len(promotions) == len(promoted) + 1, "the untouched base is promoted once"
    taught = [name for row in versions.values() if row.update_id for name in [row.update_id]]
    assert len(set(taught)) == len(taught)
    # What is served knows exactly what was learnt.
    served = Manifest.model_validate(versions[promotions[-1].version_id].manifest)
    in_shards = [name for shard in served.shards for name in shard.documents]
    assert sorted(in_shards) == sorted(name for name, state in documents.items() if state == "learnt")
    assert promoted, "a test in which nothing is promoted shows nothing"
