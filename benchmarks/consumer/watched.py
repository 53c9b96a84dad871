"""A transport that tells when records were read and when they were committed."""

from collections.abc import Callable, Sequence

from lmt2.transport.base import Consumer, Producer, Record, Transport

Told = Callable[[Sequence[Record]], None]


class WatchedTransport:
    """Tells of the reads and the commits of its consumers."""

    def __init__(self, transport: Transport, on_read: Told, on_commit: Told) -> None:
        self._transport, self._on_read, self._on_commit = transport, on_read, on_commit
        self.create_topics, self.read_all = transport.create_topics, transport.read_all

    def producer(self) -> Producer:
        """A producer."""
        return self._transport.producer()

    def consumer(self, topic: str, group: str) -> Consumer:
        """A member that is watched."""
        return WatchedConsumer(self._transport.consumer(topic, group), self._on_read, self._on_commit)


class WatchedConsumer:
    """A consumer that tells of its reads and commits."""

    def __init__(self, consumer: Consumer, on_read: Told, on_commit: Told) -> None:
        self._consumer, self._on_read, self._on_commit = consumer, on_read, on_commit
        self.put_back, self.pause, self.resume = consumer.put_back, consumer.pause, consumer.resume
        self.lag, self.close = consumer.lag, consumer.close

    def poll(self, timeout: float, most: int) -> list[Record]:
        """The consumer's poll."""
        records = self._consumer.poll(timeout, most)
        if records:
            self._on_read(records)
        return records

    def commit(self, records: Sequence[Record]) -> None:
        """The consumer's commit."""
        self._consumer.commit(records)
        self._on_commit(records)
