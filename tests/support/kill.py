"""A pipeline on the tiny model that can be killed and started again within milliseconds.

    python -m tests.support.kill HOME MODEL

Importing torch takes seconds. So one process imports it and loads the model, and each line on its standard input
makes it fork a pipeline with all stages: `free` one runs until it is killed, `at N` kills itself at its Nth
boundary (before or after a send or a commit, whichever stage comes to it). It answers with the pipeline's
process number, and when that has ended with its wait status. Workers, stages, transport and ledger are the real
ones; only the scholar is scripted, for a random model can't read.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.consumer.lighthouses import Keeper
from lmt2.config import ConsumerSettings, GateSettings, LearnerSettings, ModelSettings, Settings, TelemetrySettings
from lmt2.models.local import LocalModel
from lmt2.pipeline import STAGES, Parts
from lmt2.study.scholar import Scholar
from lmt2.supervisor import Supervisor
from lmt2.telemetry import configure_logging
from lmt2.transport.base import Consumer, Outgoing, Producer, Record, Transport
from memory.versioned import base_fingerprint
from tests.support.tiny import WordEncoder


def settings(home: Path, model: Path) -> Settings:
    """Everything small, and a gate that lets pass what has learnt anything: the test is about what is kept."""
    return Settings(
        home=home,
        model=ModelSettings(name=str(model), dtype="float32", threads=1),
        consumer=ConsumerSettings(min_lessons=1, samples=1, least_probes=0),
        learner=LearnerSettings(
            layers=(1, 3), shared_rank=12, expert_rank=4, learning_rate=5e-2, steps=40, general_a_step=0
        ),
        gate=GateSettings(
            general_anchors=8, retention_anchors=4, margin=0.99, significance=0.99, min_gain=0.0, tau=0.0
        ),
        telemetry=TelemetrySettings(log_format="json"),
    )


class Boundaries:
    """Counts sends and commits, and ends the process without a word at the one that was chosen."""

    def __init__(self, fatal: int | None) -> None:
        self._fatal = fatal
        self._count = 0
        self._lock = threading.Lock()

    def cross(self) -> None:
        """One more."""
        with self._lock:
            self._count += 1
            if self._count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)


class MortalTransport:
    """A transport whose sends and commits are boundaries."""

    def __init__(self, transport: Transport, boundaries: Boundaries) -> None:
        self._transport = transport
        self._boundaries = boundaries
        self.create_topics = transport.create_topics

    def producer(self) -> Producer:
        return MortalProducer(self._transport.producer(), self._boundaries)

    def consumer(self, topic: str, group: str) -> Consumer:
        consumer = self._transport.consumer(topic, group)
        commit = consumer.commit

        def mortal_commit(records: Sequence[Record]) -> None:
            self._boundaries.cross()
            commit(records)
            self._boundaries.cross()

        consumer.commit = mortal_commit  # type: ignore[method-assign]
        return consumer

    def read_all(self, topic: str) -> Iterator[Record]:
        return self._transport.read_all(topic)


class MortalProducer:
    """A producer whose sends are boundaries."""

    def __init__(self, producer: Producer, boundaries: Boundaries) -> None:
        self._producer = producer
        self._boundaries = boundaries
        self.close = producer.close

    def send(self, records: Sequence[Outgoing]) -> None:
        self._boundaries.cross()
        self._producer.send(records)
        self._boundaries.cross()


def run_pipeline(home: Path, model: LocalModel, fatal: int | None) -> None:
    """Run all stages until SIGTERM."""
    chosen = settings(home, model.folder)
    configure_logging(chosen.telemetry)
    parts = Parts(chosen)
    transport = MortalTransport(parts.transport, Boundaries(fatal))
    vars(parts).update(model=model, encoder=WordEncoder(), scholar=Scholar(Keeper(), Keeper()), transport=transport)
    Supervisor([stage(parts) for stage in STAGES.values()]).run()


def main() -> None:
    """Fork a pipeline for each line, and say how it ended."""
    home, folder = map(Path, sys.argv[1:3])
    torch.set_num_threads(1)
    model = LocalModel(folder, "float32")
    base_fingerprint(folder)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _be_pipeline(home, model, line.split())
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


def _be_pipeline(home: Path, model: LocalModel, order: Sequence[str]) -> None:
    status = 1
    try:
        run_pipeline(home, model, int(order[1]) if order[0] == "at" else None)
        status = 0
    except Exception:  # noqa: BLE001 (a fork must never go on as its parent)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
