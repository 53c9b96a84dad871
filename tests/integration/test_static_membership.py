"""`kafka.instance_id`: a member that restarts within its session gets its partitions back and nobody is rebalanced."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lmt2.config import KafkaSettings
from lmt2.errors import TransportError
from lmt2.transport.base import Outgoing
from lmt2.transport.kafka import KafkaConsumer, KafkaTransport

pytestmark = pytest.mark.kafka
SECONDS = 60


class Member(threading.Thread):
    """Polls on a thread of its own, as members do, until `leave` or an error."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        super().__init__()
        self.consumer = consumer
        self.seen: list[bytes] = []
        self.error: TransportError | None = None
        self._stop_asked = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                if records := self.consumer.poll(0.1, 1):
                    self.seen += [record.value for record in records]
                    self.consumer.commit(records)
        except TransportError as error:
            self.error = error

    @property
    def partitions(self) -> set[int]:
        return {partition.partition for partition in self.consumer._client.assignment()}

    @property
    def generation(self) -> int:
        """Counts the group's rebalances."""
        return int(self.consumer._client._coordinator._generation.generation_id)

    def leave(self) -> None:
        self._stop_asked.set()
        self.join()
        self.consumer.close()


@pytest.fixture
def topic() -> str:
    return f"test.{uuid.uuid4().hex}"


@pytest.fixture
def transport_of(kafka_address: str, topic: str) -> Callable[[str], KafkaTransport]:
    """Makes the transport of a process with an instance id."""

    def make(instance_id: str) -> KafkaTransport:
        transport = KafkaTransport(KafkaSettings(bootstrap=kafka_address, instance_id=instance_id, session_seconds=20))
        transport.create_topics([topic])
        return transport

    return make


@contextmanager
def member(transport: KafkaTransport, topic: str) -> Iterator[Member]:
    started = Member(transport.consumer(topic, f"group.{topic}"))
    try:
        yield started
    finally:
        started.leave()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("name", "is_rebalanced"), [("second", False), ("", True)], ids=["static", "dynamic"])
def test_a_member_that_restarts_gets_its_partitions_back(
    transport_of: Callable[[str], KafkaTransport], topic: str, name: str, is_rebalanced: bool
) -> None:
    with member(transport_of("first"), topic) as first:
        with member(transport_of(name), topic) as second:
            wait_until(lambda: len(first.partitions) + len(second.partitions) == 3 and bool(second.partitions))
            before = first.partitions, second.partitions, first.generation
        with member(transport_of(name), topic) as again:
            wait_until(lambda: bool(again.partitions) and len(first.partitions) + len(again.partitions) == 3)
            send(transport_of(""), topic, 30)
            wait_until(lambda: len(first.seen) + len(again.seen) == 30)
            after = first.partitions, again.partitions, first.generation
    assert (after != before) == is_rebalanced
    assert first.seen
    assert again.seen


def test_of_two_members_with_one_name_the_older_ends_with_its_next_record(
    transport_of: Callable[[str], KafkaTransport], topic: str
) -> None:
    with member(transport_of("same"), topic) as older:
        wait_until(lambda: len(older.partitions) == 3)
        with member(transport_of("same"), topic) as newer:
            wait_until(lambda: len(newer.partitions) == 3)
            send(transport_of(""), topic, 1)
            wait_until(lambda: older.error is not None and newer.seen == [b"0"])
            assert newer.error is None
            assert "another process has this kafka.instance_id" in str(older.error)


def send(transport: KafkaTransport, topic: str, count: int) -> None:
    producer = transport.producer()
    producer.send([Outgoing(topic, str(n).encode(), str(n).encode()) for n in range(count)])
    producer.close()
