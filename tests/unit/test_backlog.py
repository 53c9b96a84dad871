"""Backpressure with the real stage: no document is begun while too many updates wait for the learner."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prometheus_client import REGISTRY
from sqlalchemy import func, select

from consumer.backlog import is_full
from lmt2.events import DOCUMENTS
from lmt2.ledger import Ledger, UpdateRow
from lmt2.stage import Outcome, Stage, Worker
from lmt2.transport.base import Outgoing, Record
from lmt2.transport.embedded import EmbeddedTransport

SECONDS = 30


class Asker(Worker):
    """A consumer that asks for an update for each document, at once."""

    name = "consumer"
    topic = DOCUMENTS

    def work(self, record: Record) -> Outcome:
        update = UpdateRow(id=record.value.decode(), state="requested", payload={})
        return Outcome(lambda session: session.add(update))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_documents_wait_on_their_topic_while_the_learner_is_behind(tmp_path: Path, ledger: Ledger) -> None:
    def asked() -> int:
        with ledger.begin() as session:
            return session.scalar(select(func.count()).select_from(UpdateRow)) or 0

    def polls() -> float:
        return metric("lmt2_poll_interval_seconds_count", topic=DOCUMENTS)

    transport = EmbeddedTransport(tmp_path / "events.db")
    producer = transport.producer()
    producer.send([Outgoing(DOCUMENTS, str(number).encode()) for number in range(5)])
    producer.close()
    taken = metric("lmt2_queue_seconds_count", topic=DOCUMENTS)
    stage = Stage(Asker(), transport, ledger, is_on_hold=partial(is_full, 2))
    thread = threading.Thread(target=stage.run)
    thread.start()
    try:
        wait_until(lambda: metric("lmt2_updates_waiting") == 2)
        before = polls()
        wait_until(lambda: polls() >= before + 3)  # the membership is kept alive
        assert asked() == 2
        assert metric("lmt2_consumer_lag", topic=DOCUMENTS) == 3
        with ledger.begin() as session:  # the learner is done with one
            session.get_one(UpdateRow, "0").state = "trained"
        wait_until(lambda: asked() == 3)
        assert metric("lmt2_queue_seconds_count", topic=DOCUMENTS) - taken == 3
    finally:
        stage.stop()
        thread.join()
