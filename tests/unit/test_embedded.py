"""What only the embedded event log promises; the rest is in the conformance suite of all transports."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmt2.config import KafkaSettings, Settings
from lmt2.errors import ConfigError, TransportError
from lmt2.transport import open_transport
from lmt2.transport.base import Outgoing, Record
from lmt2.transport.embedded import EmbeddedConsumer, EmbeddedTransport

HOLD = """
import sys, time
from pathlib import Path
from lmt2.transport.embedded import EmbeddedTransport
member = EmbeddedTransport(Path(sys.argv[1])).consumer("topic", "group")
print(member.poll(10, 1)[0].value.decode(), flush=True)
time.sleep(600)
"""
APPEND = """
import sys
from pathlib import Path
from lmt2.transport.base import Outgoing
from lmt2.transport.embedded import EmbeddedTransport
producer = EmbeddedTransport(Path(sys.argv[1])).producer()
for number in range(50):
    producer.send([Outgoing("topic", f"{sys.argv[2]} {number}".encode())])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "events.db"


@pytest.fixture
def transport(path: Path) -> EmbeddedTransport:
    return EmbeddedTransport(path)


def send(transport: EmbeddedTransport, *values: bytes) -> None:
    producer = transport.producer()
    producer.send([Outgoing("topic", value) for value in values])
    producer.close()


def next_record(consumer: EmbeddedConsumer) -> Record:
    (record,) = consumer.poll(10, 1)
    return record


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond the size: to SQLite that is a disk with no room left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_successor_of_a_killed_member_gets_its_records_at_once(transport: EmbeddedTransport, path: Path) -> None:
    send(transport, b"1", b"2")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as member:
        assert member.stdout is not None
        assert member.stdout.readline() == b"1\n"
        successor = transport.consumer("topic", "group")
        assert successor.poll(0.3, 1) == [], "the group has a member at work"
        member.send_signal(signal.SIGKILL)
        member.wait()
    start = time.monotonic()
    assert next_record(successor).value == b"1"
    assert time.monotonic() - start < 2
    successor.close()


def test_a_member_waits_for_its_turn_and_starts_where_the_other_committed(transport: EmbeddedTransport) -> None:
    send(transport, b"1", b"2", b"3")
    one, other = transport.consumer("topic", "group"), transport.consumer("topic", "group")
    one.commit([next_record(one)])
    next_record(one)
    assert other.poll(0, 1) == []
    assert (one.lag(), other.lag()) == (1, 0)
    one.close()
    assert next_record(other).value == b"2"
    other.close()


def test_a_paused_member_keeps_its_turn(transport: EmbeddedTransport) -> None:
    send(transport, b"1", b"2")
    one, other = transport.consumer("topic", "group"), transport.consumer("topic", "group")
    next_record(one)
    one.pause()
    assert one.poll(0.1, 1) == other.poll(0.1, 1) == []
    one.close()
    other.close()


def test_a_late_commit_of_an_earlier_record_takes_nothing_back(transport: EmbeddedTransport) -> None:
    send(transport, b"1", b"2", b"3")
    member = transport.consumer("topic", "group")
    records = [next_record(member) for _ in range(3)]
    member.commit(records)
    member.commit(records[:1])
    member.close()
    again = transport.consumer("topic", "group")
    assert again.poll(0, 1) == []
    again.close()


def test_processes_may_write_at_once(transport: EmbeddedTransport, path: Path) -> None:
    names = ["a", "b", "c"]
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), name]) for name in names]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    records = list(transport.read_all("topic"))
    assert [record.offset for record in records] == list(range(150))
    for name in names:
        own = [record.value.decode().split() for record in records if record.value.startswith(name.encode())]
        assert own == [[name, str(number)] for number in range(50)]


def test_topics_and_groups_of_any_name_are_kept_apart(transport: EmbeddedTransport, path: Path) -> None:
    send(transport, b"1")
    members = [transport.consumer("topic", group) for group in ("a/b", "a%2Fb", "../x", "a@b", "ä")]
    assert [next_record(member).value for member in members] == [b"1"] * 5
    for member in members:
        member.close()
    assert sorted(entry.name for entry in path.parent.parent.iterdir()) == ["home"]


def test_a_waiting_poll_hears_of_a_record_soon(transport: EmbeddedTransport) -> None:
    member = transport.consumer("topic", "group")
    assert member.poll(0.1, 1) == []
    send(transport, b"1")
    start = time.monotonic()
    assert next_record(member).value == b"1"
    assert time.monotonic() - start < 1
    member.close()


def test_a_full_disk_is_an_error_and_the_batch_is_not_half_kept(transport: EmbeddedTransport, path: Path) -> None:
    producer = transport.producer()
    producer.send([Outgoing("topic", b"1")])
    with largest_file(1_000_000), pytest.raises(TransportError, match=r"events\.db failed: .*check disk space"):
        producer.send([Outgoing("topic", b"2"), Outgoing("topic", b"x" * 3_000_000)])
    assert [record.value for record in transport.read_all("topic")] == [b"1"]
    producer.send([Outgoing("topic", b"3")])
    assert [record.value for record in transport.read_all("topic")] == [b"1", b"3"]
    producer.close()


def test_a_commit_that_finds_no_room_is_an_error_and_the_record_comes_again(transport: EmbeddedTransport) -> None:
    send(transport, b"1")
    member = transport.consumer("topic", "group")
    record = next_record(member)
    with largest_file(1000), pytest.raises(TransportError, match="check disk space"):
        member.commit([record])
    member.close()
    again = transport.consumer("topic", "group")
    assert next_record(again) == record
    again.close()


def test_a_place_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    transport = EmbeddedTransport(tmp_path / "file" / "events.db")
    for attempt in (transport.producer, lambda: transport.consumer("t", "g"), lambda: transport.create_topics(["t"])):
        with pytest.raises(TransportError, match="check disk space"):
            attempt()


def test_a_file_that_is_no_database_is_an_error(transport: EmbeddedTransport, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(TransportError, match="not a database"):
        transport.producer()


def test_settings_choose_the_transport(tmp_path: Path) -> None:
    transport = open_transport(Settings(home=tmp_path))
    transport.create_topics(["topic"])
    assert (tmp_path / "events.db").is_file()
    kafka = open_transport(Settings(home=tmp_path, kafka=KafkaSettings(bootstrap="broker:9092")))
    assert not isinstance(kafka, EmbeddedTransport)


def test_kafka_without_its_client_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "lmt2.transport.kafka", raising=False)
    monkeypatch.setitem(sys.modules, "kafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'lmt2\[kafka\]'"):
        open_transport(Settings(home=tmp_path, kafka=KafkaSettings(bootstrap="broker:9092")))
