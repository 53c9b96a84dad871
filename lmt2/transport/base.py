"""What a stage needs of an event log: acknowledged sends, and reads that are committed when their effect is durable.

Delivery is at least once. A consumer of a group reads each record that no member has committed; what it
read and didn't commit comes again after a restart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Record:
    """A record as it was read. `timestamp` is seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes | None = None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    timestamp: float = 0.0

    @property
    def place(self) -> str:
        """Where the record stands, for logs: topic[partition]@offset."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True)
class Outgoing:
    """A record to send."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: Mapping[str, bytes] = field(default_factory=dict)


class Producer(Protocol):
    """Sends records."""

    def send(self, records: Sequence[Outgoing]) -> None:
        """Send all; return when the log has acknowledged every one.

        Raises:
            TransportError: at least one was not acknowledged; sending all again is safe for readers.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Consumer(Protocol):
    """Reads a topic as a member of a group. Used by one thread at a time."""

    def poll(self, timeout: float, most: int) -> list[Record]:
        """The next records, or none after `timeout` seconds; while paused none, but the membership is kept alive."""
        ...

    def put_back(self, records: Sequence[Record]) -> None:
        """These were read and nothing was done with them: who has their partitions reads them next."""
        ...

    def commit(self, records: Sequence[Record]) -> None:
        """These records and all before them in their partitions are done."""
        ...

    def pause(self) -> None:
        """Fetch nothing until `resume`."""
        ...

    def resume(self) -> None:
        """Fetch again."""
        ...

    def lag(self) -> int:
        """Records of the topic that this member has yet to read."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Transport(Protocol):
    """A place where topics live."""

    def create_topics(self, topics: Sequence[str]) -> None:
        """Make sure that topics exist."""
        ...

    def producer(self) -> Producer:
        """A new producer."""
        ...

    def consumer(self, topic: str, group: str) -> Consumer:
        """A new member of a group that reads one topic from its beginning or from where the group stands."""
        ...

    def read_all(self, topic: str) -> Iterator[Record]:
        """The records that a topic holds now, for people to look at: nobody's place in it changes."""
        ...
