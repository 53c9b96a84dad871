"""Kills, broker restarts and rebalances while a stream runs: what is lost, and what is done twice.

The members are processes of their own, with the real stage on a real broker and ledger; only the scholar is scripted.
They are forked from a warm one, so that a start takes a moment. Sessions are short, for the group waits for the
session of a killed member to end.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.consumer.broker import Broker, running
from benchmarks.consumer.lighthouses import new_ledger, worker
from benchmarks.consumer.stream import Stream, account
from benchmarks.stream import say
from lmt2.config import ConsumerSettings, KafkaSettings, Settings, TelemetrySettings
from lmt2.events import TOPICS
from lmt2.ledger import Ledger
from lmt2.stage import Stage
from lmt2.supervisor import Service, Supervisor
from lmt2.telemetry import configure_logging
from lmt2.transport import open_transport

SESSION_SECONDS = 3
LAST_SECONDS = 1800.0
BATCH = 10  # records that are sent between two faults
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def settings(home: Path, bootstrap: str) -> Settings:
    """A consumer that finds enough in a lighthouse's one fact."""
    return Settings(
        home=home,
        kafka=KafkaSettings(bootstrap=bootstrap, session_seconds=SESSION_SECONDS),
        consumer=ConsumerSettings(min_lessons=1, samples=1, least_probes=0),
        telemetry=TelemetrySettings(log_format="json"),
    )


def consume(home: Path, bootstrap: str) -> None:
    """A member: the consumer stage until SIGTERM; its log is added to HOME/log."""
    with (home / "log").open("ab") as log:
        os.dup2(log.fileno(), 2)
    chosen = settings(home, bootstrap)
    configure_logging(chosen.telemetry)
    ledger = Ledger(chosen.ledger_url)
    stage = Stage(worker(chosen, ledger), open_transport(chosen), ledger)
    Supervisor([Service("consumer", stage.run, stage.stop)]).run()


class Scene:
    """A broker, a stream, a ledger, and the members that are alive."""

    def __init__(self, broker: Broker, home: Path, seed: int) -> None:
        chosen = settings(home, broker.address)
        self.broker, self.home, self.rng = broker, home, random.Random(seed)
        transport = open_transport(chosen)
        transport.create_topics(TOPICS)
        self.stream = Stream(transport, random.Random(seed + 1))
        self.ledger = new_ledger(chosen)
        self.members: list[Any] = []
        self.ended = 0  # members that ended by themselves, as a stage does when its broker is away

    def start(self) -> None:
        """One member more."""
        self.members.append(processes.Process(target=consume, args=(self.home, self.broker.address), daemon=True))
        self.members[-1].start()

    def kill(self) -> None:
        """A random member ends without a word."""
        self._take().kill()

    def stop(self) -> None:
        """A random member is asked to leave, and does so in order, or at once if it hasn't begun yet."""
        member = self._take()
        member.terminate()
        member.join()
        if member.exitcode not in (0, -signal.SIGTERM):
            raise RuntimeError(f"a member left with status {member.exitcode}: see {self.home / 'log'}")

    def revive(self) -> None:
        """Start again what ended by itself, as a service manager does."""
        living = [member for member in self.members if member.is_alive()]
        lost = len(self.members) - len(living)
        self.members, self.ended = living, self.ended + lost
        for _ in range(lost):
            self.start()

    def finish(self) -> dict[str, int]:
        """Let the members work until all is accounted for, or for LAST_SECONDS; then count."""
        deadline = time.monotonic() + LAST_SECONDS
        while account(self.stream, self.ledger)["lost"] and time.monotonic() < deadline:
            self.revive()
            time.sleep(1.0)
        while self.members:
            self.stop()
        self.ledger.close()
        return account(self.stream, self.ledger)

    def _take(self) -> Any:
        return self.members.pop(self.rng.randrange(len(self.members)))


def kills(scene: Scene, count: int) -> None:
    """Two members, of which one dies at a random moment and is replaced."""
    scene.start()
    for _ in range(count):
        scene.start()
        scene.stream.send(BATCH)
        time.sleep(scene.rng.uniform(0, 2 * SESSION_SECONDS))
        scene.kill()


def restarts(scene: Scene, count: int) -> None:
    """Two members whose broker is killed and comes back."""
    scene.start()
    scene.start()
    for _ in range(count):
        scene.stream.send(BATCH)
        time.sleep(scene.rng.uniform(0, 3))
        scene.broker.kill()
        time.sleep(scene.rng.uniform(0, 3))
        scene.broker.start()
        scene.revive()


def rebalances(scene: Scene, count: int) -> None:
    """Three members, of which one leaves or comes every two seconds."""
    for _ in range(3):
        scene.start()
    for number in range(count):
        scene.stream.send(BATCH)
        time.sleep(2.0)
        scene.stop() if number % 2 == 0 else scene.start()
    scene.start()


FAULTS: dict[str, Callable[[Scene, int], None]] = {"kills": kills, "restarts": restarts, "rebalances": rebalances}


def run(libs: Path, home: Path, counts: dict[str, int]) -> dict[str, Any]:
    """Each kind of fault, on a broker and a ledger of its own."""
    report: dict[str, Any] = {}
    for seed, (name, count) in enumerate(counts.items()):
        folder = home / name
        folder.mkdir()
        started = time.monotonic()
        with running(libs, folder / "broker") as broker:
            scene = Scene(broker, folder, seed)
            FAULTS[name](scene, count)
            counted = scene.finish()
        seconds = round(time.monotonic() - started)
        report[name] = {name: count, **counted, "members ended by themselves": scene.ended, "seconds": seconds}
        say(json.dumps(report[name]))
    return report
