"""The embedded event log: topics in one SQLite file, for a machine without Kafka.

Every topic has one partition. Several processes may use the file at once: SQLite orders the writers, and a
send or a commit is on the disk before it returns. A group reads a topic through one member at a time, the one
that holds the group's lock file; the system frees that lock when the member's process ends, however it ends,
and the next member goes on from the committed offset at once.
"""

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from lmt2.errors import TransportError
from lmt2.sqlite import BUSY_SECONDS, make_durable
from lmt2.transport.base import Outgoing, Record

LOOK_SECONDS = 0.05  # how often a waiting poll looks for new records
PARTITION = 0
MOST_BYTES = 2**20  # after which a poll reads no further record

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    topic TEXT NOT NULL, offset INTEGER NOT NULL, key BLOB, value BLOB NOT NULL, headers TEXT NOT NULL,
    timestamp REAL NOT NULL, PRIMARY KEY (topic, offset));
CREATE TABLE IF NOT EXISTS commits (
    topic TEXT NOT NULL, member_group TEXT NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (topic, member_group));
"""
END = "SELECT coalesce(max(offset) + 1, 0) FROM records WHERE topic = ?"
APPEND = "INSERT INTO records (topic, offset, key, value, headers, timestamp) VALUES (?, ?, ?, ?, ?, ?)"
READ = """SELECT offset, key, value, headers, timestamp FROM records
    WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?"""
READ_ALL = "SELECT offset, key, value, headers, timestamp FROM records WHERE topic = ? ORDER BY offset"
COMMITTED = "SELECT next FROM commits WHERE topic = ? AND member_group = ?"
COMMIT = """INSERT INTO commits (topic, member_group, next) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET next = max(next, excluded.next)"""


class EmbeddedTransport:
    """Topics in the SQLite file at `path`, which is made when it is first used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create_topics(self, topics: Sequence[str]) -> None:  # noqa: ARG002 (they come to be with their first record)
        """Make the file; a topic needs no making."""
        with _as_transport_error(self._path):
            _connect(self._path).close()

    def producer(self) -> "EmbeddedProducer":
        """A new producer; threads may share it."""
        return EmbeddedProducer(self._path)

    def consumer(self, topic: str, group: str) -> "EmbeddedConsumer":
        """A new member of a group."""
        return EmbeddedConsumer(self._path, topic, group)

    def read_all(self, topic: str) -> Iterator[Record]:
        """The records that a topic holds now."""
        with _as_transport_error(self._path), closing(_connect(self._path)) as log:
            for row in log.execute(READ_ALL, [topic]):
                yield _record(topic, *row)


class EmbeddedProducer:
    """Appends records; a call's records become visible together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._one_at_a_time = threading.Lock()
        with _as_transport_error(path):
            self._log = _connect(path)

    def send(self, records: Sequence[Outgoing]) -> None:
        """Append all in one transaction, or none.

        Raises:
            TransportError: the disk is full, or the file can't be written.
        """
        with self._one_at_a_time, _as_transport_error(self._path), _transaction(self._log):
            for record in records:
                (offset,) = self._log.execute(END, [record.topic]).fetchone()
                headers = json.dumps({name: value.decode("latin-1") for name, value in record.headers.items()})
                row = [record.topic, offset, record.key, record.value, headers, time.time()]
                self._log.execute(APPEND, row)

    def close(self) -> None:
        """Close the file."""
        self._log.close()


class EmbeddedConsumer:
    """A member of a group; it reads while it holds the group's lock, and waits its turn otherwise."""

    def __init__(self, path: Path, topic: str, group: str) -> None:
        self._path, self._topic, self._group = path, topic, group
        self._turn = _Turn(path.with_name(f"{path.name}-groups") / quote(f"{topic}@{group}", safe="@"))
        self._position: int | None = None  # none until it is this member's turn
        self._is_paused = False
        with _as_transport_error(path):
            self._log = _connect(path)

    def poll(self, timeout: float, most: int) -> list[Record]:
        """The next records, or none after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            records = [] if self._is_paused else self._read(most)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            time.sleep(min(left, LOOK_SECONDS))

    def put_back(self, records: Sequence[Record]) -> None:
        """Read these next."""
        if records:
            self._position = records[0].offset

    def commit(self, records: Sequence[Record]) -> None:
        """The group goes on after these records, whatever happens to this member."""
        with _as_transport_error(self._path), _transaction(self._log):
            self._log.execute(COMMIT, [self._topic, self._group, records[-1].offset + 1])

    def pause(self) -> None:
        """Read nothing until `resume`; the lock, and with it the turn, is kept."""
        self._is_paused = True

    def resume(self) -> None:
        """Read again."""
        self._is_paused = False

    def lag(self) -> int:
        """Records that this member has yet to read; none while another member has the turn."""
        if self._position is None:
            return 0
        with _as_transport_error(self._path):
            (end,) = self._log.execute(END, [self._topic]).fetchone()
        return int(end) - self._position

    def close(self) -> None:
        """Give the turn to the next member."""
        self._log.close()
        self._turn.end()

    def _read(self, most: int) -> list[Record]:
        records: list[Record] = []
        size = 0
        with _as_transport_error(self._path):
            if self._position is None:
                if not self._turn.take():
                    return []
                row = self._log.execute(COMMITTED, [self._topic, self._group]).fetchone()
                self._position = int(row[0]) if row else 0
            with closing(self._log.execute(READ, [self._topic, self._position, most])) as rows:
                while size < MOST_BYTES and (row := rows.fetchone()):
                    records.append(_record(self._topic, *row))
                    size += len(records[-1].value)
        if records:
            self._position = records[-1].offset + 1
        return records


def _record(topic: str, offset: int, key: bytes | None, value: bytes, headers: str, timestamp: float) -> Record:
    decoded = {name: text.encode("latin-1") for name, text in json.loads(headers).items()}
    return Record(topic, PARTITION, offset, value, key, decoded, timestamp)


class _Turn:
    """An exclusive lock on a file, held until `end` or the death of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Whether the lock could be had, without waiting."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def end(self) -> None:
        """Let the lock go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    make_durable(log)
    log.executescript(SCHEMA)
    return log


@contextmanager
def _transaction(log: sqlite3.Connection) -> Iterator[None]:
    log.execute("BEGIN IMMEDIATE")
    try:
        yield
        log.execute("COMMIT")
    finally:
        if log.in_transaction:  # a full disk rolls back by itself, other failures don't
            log.execute("ROLLBACK")


@contextmanager
def _as_transport_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise TransportError(
            f"the event log {path} failed: {error}; check disk space and that it is writable"
        ) from error
