"""What every stage relies on, asked of each transport: the embedded event log, and Kafka on a real broker."""

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from lmt2.config import KafkaSettings, Settings
from lmt2.errors import EventError, TransportError
from lmt2.events import DEAD_LETTERS
from lmt2.ledger import ControlRow, Ledger
from lmt2.stage import Outcome, Stage, Worker
from lmt2.transport import kafka, open_transport
from lmt2.transport.base import Consumer, Outgoing, Record, Transport
from lmt2.transport.embedded import EmbeddedConsumer
from tests.support.ports import free_ports

SECONDS = 60  # a group's first member waits for the broker's coordinator
ALL_BYTES = bytes(range(256))
UNREACHABLE = """
import sys, threading
from lmt2.config import KafkaSettings
from lmt2.errors import EventError, TransportError
from lmt2.transport import kafka
kafka.CONNECT_MS = 1000
transport = kafka.KafkaTransport(KafkaSettings(bootstrap=sys.argv[1]))
for attempt in (transport.producer, lambda: transport.consumer("t", "g"), lambda: transport.create_topics(["t"])):
    try:
        attempt()
    except TransportError as error:
        print(error)
print(threading.active_count(), "thread")
"""


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a run on the transport that is tested."""
    bootstrap = request.getfixturevalue("kafka_address") if request.param == "kafka" else ""
    return Settings(home=tmp_path, kafka=KafkaSettings(bootstrap=bootstrap))


@pytest.fixture
def transport(settings: Settings) -> Transport:
    return open_transport(settings)


@pytest.fixture
def topic(transport: Transport) -> str:
    """A topic that no other test uses."""
    name = f"test.{uuid.uuid4().hex}"
    transport.create_topics([name])
    return name


@pytest.fixture
def join(transport: Transport, topic: str) -> Iterator[Callable[..., Consumer]]:
    """Joins a group of the topic; those who still are in it leave at the end."""
    members: list[Consumer] = []

    def join_group(group: str = "group") -> Consumer:
        members.append(transport.consumer(topic, f"{group}.{topic}"))
        return members[-1]

    yield join_group
    for member in members:
        member.close()


def send(transport: Transport, records: Sequence[Outgoing]) -> None:
    producer = transport.producer()
    producer.send(records)
    producer.close()


def numbered(topic: str, count: int, key: bytes | None = b"key") -> list[Outgoing]:
    return [Outgoing(topic, str(number).encode(), key) for number in range(count)]


def numbered_keys(topic: str, count: int) -> list[Outgoing]:
    """Records that fall on all partitions."""
    return [Outgoing(topic, str(number).encode(), str(number).encode()) for number in range(count)]


def read(consumer: Consumer, count: int) -> list[Record]:
    records: list[Record] = []
    deadline = time.monotonic() + SECONDS
    while len(records) < count and time.monotonic() < deadline:
        records += consumer.poll(0.1, 1)
    return records


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


class Member(threading.Thread):
    """A member that reads and commits on a thread of its own, as members do: a group's join needs all of them."""

    def __init__(self, consumer: Consumer) -> None:
        super().__init__()
        self.consumer = consumer
        self.seen: list[int] = []
        self._stop_asked = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            for record in self.consumer.poll(0.1, 1):
                self.seen.append(int(record.value))
                self.consumer.commit([record])

    def has_place(self) -> bool:
        """Whether the group has given the member its share; the embedded log shares nothing out."""
        is_embedded = isinstance(self.consumer, EmbeddedConsumer)
        return is_embedded or bool(self.consumer._client.assignment())  # type: ignore[attr-defined]

    def leave(self) -> None:
        self._stop_asked.set()
        self.join()


@pytest.fixture
def members(join: Callable[..., Consumer]) -> Iterator[Callable[[], Member]]:
    """Makes members of one group."""
    started: list[Member] = []

    def start() -> Member:
        started.append(Member(join()))
        return started[-1]

    yield start
    for member in started:
        member.leave()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_records_of_one_key_are_read_in_the_order_they_were_sent(
    transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    send(transport, numbered(topic, 20))
    send(transport, [Outgoing(topic, b"20", b"key")])
    records = read(join(), 21)
    assert values(records) == list(range(21))
    assert {record.partition for record in records} == {records[0].partition}
    assert [record.offset for record in records] == list(range(21))


def test_what_was_read_and_not_committed_comes_again(
    transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    send(transport, numbered(topic, 5))
    first = join()
    assert values(read(first, 3)) == [0, 1, 2]
    first.close()
    assert values(read(join(), 5)) == [0, 1, 2, 3, 4]


def test_the_next_member_goes_on_after_what_was_committed(
    transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    send(transport, numbered(topic, 5))
    first = join()
    for record in read(first, 3):
        first.commit([record])
    first.close()
    assert values(read(join(), 2)) == [3, 4]


def test_a_new_transport_finds_what_an_earlier_one_left(
    settings: Settings, transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    send(transport, numbered(topic, 2))
    first = join()
    first.commit(read(first, 1))
    first.close()
    again = open_transport(settings)
    again.create_topics([topic])  # as every start does
    successor = again.consumer(topic, f"group.{topic}")
    assert values(read(successor, 1)) == [1]
    successor.close()


def test_several_records_are_read_and_committed_at_once(
    transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    send(transport, numbered_keys(topic, 40))
    first = join()
    seen: list[Record] = []
    deadline = time.monotonic() + SECONDS
    while len(seen) < 40 and time.monotonic() < deadline:
        records = first.poll(0.1, 15)
        assert len(records) <= 15
        seen += records
    assert sorted(values(seen)) == list(range(40))
    first.commit(seen)
    first.close()
    send(transport, [Outgoing(topic, b"40", b"key")])
    assert values(read(join(), 1)) == [40]


def test_what_is_put_back_is_read_next(transport: Transport, topic: str, join: Callable[..., Consumer]) -> None:
    send(transport, numbered_keys(topic, 40))
    member = join()
    seen: list[Record] = []
    deadline = time.monotonic() + SECONDS
    while len(seen) < 40 and time.monotonic() < deadline:
        records = member.poll(0.1, 15)
        member.put_back(records[1:])
        seen += records[:1]
    assert sorted(values(seen)) == list(range(40))
    for partition in {record.partition for record in seen}:
        offsets = [record.offset for record in seen if record.partition == partition]
        assert offsets == list(range(len(offsets)))


def test_each_group_reads_everything(transport: Transport, topic: str, join: Callable[..., Consumer]) -> None:
    send(transport, numbered(topic, 3))
    one = join("one")
    for record in read(one, 3):
        one.commit([record])
    assert values(read(join("other"), 3)) == [0, 1, 2]


def test_two_members_share_a_topic_and_none_gets_what_the_other_got(
    transport: Transport, topic: str, members: Callable[[], Member]
) -> None:
    one, other = members(), members()
    wait_until(lambda: one.has_place() and other.has_place())
    send(transport, numbered_keys(topic, 60))
    wait_until(lambda: len(one.seen) + len(other.seen) >= 60)
    one.leave()
    other.leave()
    assert sorted(one.seen + other.seen) == list(range(60))


def test_when_a_member_leaves_the_other_goes_on(
    transport: Transport, topic: str, members: Callable[[], Member]
) -> None:
    one, other = members(), members()
    wait_until(lambda: one.has_place() and other.has_place())
    one.leave()
    one.consumer.close()
    send(transport, numbered_keys(topic, 20))
    wait_until(lambda: len(other.seen) == 20)
    assert sorted(other.seen) == list(range(20))


def test_a_paused_member_gets_nothing_and_keeps_its_place(
    transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    send(transport, numbered(topic, 3))
    member = join()
    (record,) = read(member, 1)
    member.pause()
    assert [member.poll(0.1, 1) for _ in range(10)] == [[]] * 10
    member.commit([record])
    member.resume()
    assert values(read(member, 2)) == [1, 2]


def test_a_paused_member_gets_nothing_when_another_joins(
    transport: Transport, topic: str, join: Callable[..., Consumer], members: Callable[[], Member]
) -> None:
    send(transport, numbered_keys(topic, 60))
    first = join()
    (record,) = read(first, 1)
    first.pause()
    newcomer = members()
    while not newcomer.has_place():
        assert first.poll(0.1, 1) == []
    assert [first.poll(0.1, 1) for _ in range(10)] == [[]] * 10
    first.commit([record])
    first.resume()
    seen = {int(record.value)}
    while len(seen | set(newcomer.seen)) < 60:
        seen |= set(values(first.poll(0.1, 1)))
    assert len(seen) + len(newcomer.seen) - 60 <= 1  # the record in hand may have moved to the newcomer


def test_lag_counts_what_is_still_to_be_read(transport: Transport, topic: str, join: Callable[..., Consumer]) -> None:
    send(transport, numbered(topic, 5))
    member = join()
    read(member, 2)
    assert member.lag() == 3
    read(member, 3)
    assert member.lag() == 0


@pytest.mark.parametrize("value", [ALL_BYTES, b"", b"\xff\xfe", b'{"text": "\xc3\xa9"}'])
@pytest.mark.parametrize("key", [None, b"", ALL_BYTES])
def test_bytes_pass_unchanged(
    transport: Transport, topic: str, join: Callable[..., Consumer], value: bytes, key: bytes | None
) -> None:
    before = time.time()
    headers = {"content-type": b"application/json", "all": ALL_BYTES, "empty": b"", "é": b"name"}
    send(transport, [Outgoing(topic, value, key, headers)])
    (record,) = read(join(), 1)
    assert (record.value, record.key, dict(record.headers)) == (value, key, headers)
    assert before - 1 <= record.timestamp <= time.time() + 1


def test_a_record_of_five_megabytes_passes(transport: Transport, topic: str, join: Callable[..., Consumer]) -> None:
    value = ALL_BYTES * (5 * 2**20 // 256)
    send(transport, [Outgoing(topic, value), Outgoing(topic, b"after it", b"key")])
    assert {record.value for record in read(join(), 2)} == {value, b"after it"}


def test_all_records_can_be_read_without_joining_a_group(
    transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    assert list(transport.read_all(topic)) == []
    send(transport, numbered_keys(topic, 20))
    member = join()
    member.commit(read(member, 1))
    assert sorted(values(list(transport.read_all(topic)))) == list(range(20))
    assert len(read(member, 19)) == 19


class SlowWorker(Worker):
    """Takes longer than a poll, so that the stage pauses, polls and resumes for each record."""

    name = "slow"

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def work(self, record: Record) -> Outcome:
        time.sleep(0.5)
        name = record.value.decode()
        return Outcome(
            lambda session: session.add(ControlRow(name=name, value="kept")),
            [Outgoing(f"{record.topic}.out", record.value)],
        )


def test_a_stage_works_through_a_topic(transport: Transport, topic: str, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()

    def kept() -> set[str]:
        with ledger.begin() as session:
            return set(session.scalars(select(ControlRow.name)))

    out = f"{topic}.out"
    transport.create_topics([out, DEAD_LETTERS])
    send(transport, numbered_keys(topic, 4))
    stage = Stage(SlowWorker(topic), transport, ledger, group_prefix=topic)
    thread = threading.Thread(target=stage.run)
    thread.start()
    wait_until(lambda: len(kept()) == 4)
    stage.stop()
    thread.join()
    successor = transport.consumer(topic, f"{topic}.slow")
    assert successor.poll(3, 1) == [], "every record was committed"
    successor.close()
    assert len(list(transport.read_all(out))) == 4
    ledger.close()


class Refuser(Worker):
    """Can use nothing."""

    name = "refuser"

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def work(self, _: Record) -> Outcome:
        raise EventError("why " * 300)


@pytest.mark.kafka
def test_the_greatest_record_that_a_topic_takes_fits_into_a_dead_letter(kafka_address: str, tmp_path: Path) -> None:
    transport = open_transport(Settings(home=tmp_path, kafka=KafkaSettings(bootstrap=kafka_address)))
    topic = f"test.{uuid.uuid4().hex}"
    transport.create_topics([topic, DEAD_LETTERS])
    send(transport, [Outgoing(topic, b"x" * (kafka.MAX_BYTES - 200), topic.encode())])
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    stage = Stage(Refuser(topic), transport, ledger, group_prefix=topic)
    thread = threading.Thread(target=stage.run)
    thread.start()
    wait_until(lambda: any(letter.key == topic.encode() for letter in transport.read_all(DEAD_LETTERS)))
    stage.stop()
    thread.join()
    ledger.close()


def test_topics_can_be_created_again_without_losing_records(
    transport: Transport, topic: str, join: Callable[..., Consumer]
) -> None:
    send(transport, numbered(topic, 1))
    transport.create_topics([topic, f"{topic}.more"])
    assert values(read(join(), 1)) == [0]


def test_nothing_is_connected_before_it_is_used(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    open_transport(Settings(home=tmp_path / "run", kafka=KafkaSettings(bootstrap=f"127.0.0.1:{port}")))
    open_transport(Settings(home=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_broker_that_is_not_there_is_an_error_and_leaves_no_thread_behind() -> None:
    (port,) = free_ports(1)
    # In a process of its own: kafka-python leaves the sockets of failed connections to the garbage collector.
    command = [sys.executable, "-c", UNREACHABLE, f"127.0.0.1:{port}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["Kafka at 127.0.0.1"] * 3
    assert all(f"{port} can't be used" in line for line in lines[:-1])
    assert lines[-1] == "1 thread"


@pytest.mark.kafka
def test_a_send_to_a_topic_that_does_not_exist_is_an_error(kafka_address: str, tmp_path: Path) -> None:
    transport = open_transport(Settings(home=tmp_path, kafka=KafkaSettings(bootstrap=kafka_address)))
    producer = transport.producer()
    with pytest.raises(TransportError, match="didn't acknowledge"):
        producer.send([Outgoing(f"missing.{uuid.uuid4().hex}", b"value")])
    producer.close()


def test_a_record_of_a_java_producer_may_have_no_value_and_headers_without_one() -> None:
    raw = SimpleNamespace(
        topic="t", partition=0, offset=1, value=None, key=None, headers=[("trace", None)], timestamp=1
    )
    assert (kafka._record(raw).value, kafka._record(raw).headers) == (b"", {"trace": b""})
