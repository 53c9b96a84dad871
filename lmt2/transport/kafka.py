"""Kafka behind the transport's interface, by kafka-python.

Values are read as bytes and decoded by the stage: a deserialiser that raises would stop a consumer for good.
Offsets are committed when a stage has made the effects of the records before them durable.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import kafka
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    TopicAlreadyExistsError,
    UnknownMemberIdError,
)

from lmt2 import telemetry
from lmt2.config import KafkaSettings
from lmt2.errors import TransportError
from lmt2.events import DEAD_LETTERS, QUARANTINE
from lmt2.transport.base import Outgoing, Record
from lmt2.transport.kafka_client import open_client

MAX_BYTES = 16 * 2**20  # of a record: a request for an update carries its documents
LETTER_BYTES = MAX_BYTES + 2**16  # of a record that was refused: it also says why
CONNECT_MS = 10_000
HEARTBEAT_MS = 1_000  # also how fast a member hears of a newcomer
READ_MS = 500
JOIN_MS = 5_000  # beyond a session, because a join waits for members that died
DELIVERY_MS = 60_000  # a broker that restarts is waited for
READING = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
}
REBALANCED = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


class KafkaTransport:
    """Topics on the Kafka cluster that the settings name. Nothing is connected before it is used."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client = {
            "bootstrap_servers": settings.bootstrap.split(","),
            "bootstrap_timeout_ms": CONNECT_MS,
            "security_protocol": settings.security,
            "ssl_cafile": settings.ca_file or None,
            "ssl_certfile": settings.cert_file or None,
            "ssl_keyfile": settings.key_file or None,
        }
        if settings.username:
            self._client["sasl_mechanism"] = settings.sasl_mechanism
            self._client["sasl_plain_username"] = settings.username
            self._client["sasl_plain_password"] = settings.password

    def create_topics(self, topics: Sequence[str]) -> None:
        """Make the topics that aren't there; those that are keep their settings."""
        with self._as_transport_error():
            admin = self._open(kafka.KafkaAdminClient)
            try:
                for topic in set(topics).difference(admin.list_topics()):
                    with suppress(TopicAlreadyExistsError):  # another process was quicker
                        admin.create_topics({topic: self._wanted(topic)})
                admin.wait_for_topics(list(topics))
            finally:
                admin.close()

    def _wanted(self, topic: str) -> dict[str, Any]:
        most = LETTER_BYTES if topic in (DEAD_LETTERS, QUARANTINE) else MAX_BYTES
        return {
            "num_partitions": self._settings.partitions,
            "replication_factor": self._settings.replication,
            "configs": {"max.message.bytes": str(most)},
        }

    def producer(self) -> "KafkaProducer":
        """A new producer; threads may share it."""
        with self._as_transport_error():
            return KafkaProducer(
                self._open(
                    kafka.KafkaProducer,
                    acks="all",
                    enable_idempotence=True,
                    allow_auto_create_topics=False,
                    max_request_size=LETTER_BYTES,
                    max_block_ms=CONNECT_MS,
                    delivery_timeout_ms=DELIVERY_MS,
                )
            )

    def consumer(self, topic: str, group: str) -> "KafkaConsumer":
        """A new member of a group; with an `instance_id` the one that had this name there before."""
        session_ms = int(self._settings.session_seconds * 1000)
        with self._as_transport_error():
            client = self._open(
                kafka.KafkaConsumer,
                **READING,
                group_id=group,
                # A static member doesn't leave. Its name comes back within a session, or its partitions go to others.
                group_instance_id=f"{group}.{name}" if (name := self._settings.instance_id) else None,
                heartbeat_interval_ms=HEARTBEAT_MS,
                session_timeout_ms=session_ms,
                # Members keep their partitions when others come and go, so that work in hand isn't done twice.
                partition_assignment_strategy=(CooperativeStickyAssignor(),),
            )
            client.subscribe([topic])
            return KafkaConsumer(client, group, session_ms + JOIN_MS)

    def read_all(self, topic: str) -> Iterator[Record]:
        """The records that a topic holds now; no group is joined."""
        with self._as_transport_error(), closing(self._open(kafka.KafkaConsumer, **READING)) as client:
            numbers = client.partitions_for_topic(topic) or ()
            partitions = [kafka.TopicPartition(topic, number) for number in sorted(numbers)]
            client.assign(partitions)
            ends = client.end_offsets(partitions)
            while any(client.position(partition) < end for partition, end in ends.items()):
                for raws in client.poll(READ_MS).values():
                    yield from map(_record, raws)

    def _open(self, kind: Callable[..., Any], **settings: object) -> Any:
        return open_client(kind, **self._client, **settings)

    @contextmanager
    def _as_transport_error(self) -> Iterator[None]:
        with as_transport_error(f"Kafka at {self._settings.bootstrap} can't be used"):
            yield


class KafkaProducer:
    """Sends records and waits until all replicas that are in sync have them."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def send(self, records: Sequence[Outgoing]) -> None:
        """Send all, and wait for every acknowledgement.

        Raises:
            TransportError: at least one wasn't acknowledged.
        """
        with as_transport_error("Kafka didn't acknowledge a record"):
            sent = [
                self._client.send(record.topic, record.value, record.key, list(record.headers.items()))
                for record in records
            ]
            self._client.flush(timeout=2 * DELIVERY_MS / 1000)
            for acknowledgement in sent:
                acknowledgement.get(timeout=0)

    def close(self) -> None:
        """Close the connections."""
        self._client.close(timeout=CONNECT_MS / 1000)


class KafkaConsumer:
    """A member of a consumer group."""

    def __init__(self, client: Any, group: str, join_ms: int) -> None:
        self._client = client
        self._join_ms = join_ms
        self._log = telemetry.logger(group)
        self._is_paused = False

    def poll(self, timeout: float, most: int) -> list[Record]:
        """The next records, or none after `timeout` seconds; longer while the group shares out its partitions."""
        with as_transport_error("Kafka didn't answer a poll"):
            self._join()
            self._pause_or_resume_all()
            raws = self._client.poll(timeout * 1000, most)
        records = [_record(raw) for partition in raws.values() for raw in partition]
        if self._is_paused:  # of a partition that was assigned just now
            self.put_back(records)
            return []
        return records

    def put_back(self, records: Sequence[Record]) -> None:
        """Read these again, from the broker: what another member has by then doesn't come back."""
        first = {kafka.TopicPartition(record.topic, record.partition): record.offset for record in reversed(records)}
        for partition, offset in first.items():
            with suppress(ValueError, KeyError):  # it was taken away
                self._client.seek(partition, offset)

    def commit(self, records: Sequence[Record]) -> None:
        """The group goes on after these; of a partition that has another reader by now, that one reads them again."""
        last = {kafka.TopicPartition(record.topic, record.partition): record for record in records}
        lost = last.keys() - self._client.assignment()
        if lost:
            places = [last.pop(partition).place for partition in lost]
            self._log.warning("partitions were taken away: not committed", places=places)
        offsets = {partition: kafka.OffsetAndMetadata(record.offset + 1, "", -1) for partition, record in last.items()}
        with as_transport_error("Kafka didn't take a commit"):
            try:
                if offsets:
                    self._client.commit(offsets)
            except REBALANCED as error:
                places = [record.place for record in last.values()]
                self._log.warning("group was rebalanced: not committed", places=places, error=str(error))

    def pause(self) -> None:
        """Fetch nothing until `resume`; polls keep the membership alive."""
        self._is_paused = True

    def resume(self) -> None:
        """Fetch again."""
        self._is_paused = False

    def lag(self) -> int:
        """Records of this member's partitions that it has yet to read, as of its latest fetch."""
        return sum(self._lag_of(partition) for partition in self._client.assignment())

    def close(self) -> None:
        """Leave the group."""
        self._client.close(autocommit=False)

    def _lag_of(self, partition: kafka.TopicPartition) -> int:
        with suppress(KafkaError, KeyError):  # the partition is on its way to another member
            end, position = self._client.highwater(partition), self._client.position(partition, timeout_ms=1000)
            if end is not None and position is not None:
                return max(0, int(end) - int(position))
        return 0

    def _join(self) -> None:
        # kafka-python 3.0 loses a join that a short poll interrupts. It begins another, for which all members must
        # join anew, and so on for ever; or, if new partitions were the reason, it forgets about it, and the member
        # starves without a heartbeat. So joins are waited for, here.
        coordinator = self._client._coordinator  # noqa: SLF001
        if coordinator.need_rejoin() or coordinator.rejoining:
            coordinator.request_rejoin()
            with suppress(KafkaTimeoutError):  # the next poll goes on waiting
                coordinator.ensure_active_group(self._join_ms)

    def _pause_or_resume_all(self) -> None:
        # At every poll, because a partition that is newly assigned isn't paused, nor one that was taken away and
        # given back. Rebalances happen on the client's own thread: a partition may vanish at any moment.
        with suppress(KeyError):
            if self._is_paused:
                self._client.pause(*self._client.assignment())
            else:
                self._client.resume(*self._client.paused())


def _record(raw: Any) -> Record:
    value = raw.value or b""  # a tombstone has none; decoding refuses it like any other empty record
    headers = {name: content or b"" for name, content in raw.headers}  # a header may have none, too
    return Record(raw.topic, raw.partition, raw.offset, value, raw.key, headers, raw.timestamp / 1000)


@contextmanager
def as_transport_error(what: str) -> Iterator[None]:
    """Raise kafka-python's errors as ours."""
    try:
        yield
    except TransportError:
        raise
    except FencedInstanceIdError as error:
        raise TransportError(f"{what}: another process has this kafka.instance_id; each needs its own") from error
    except (KafkaError, OSError) as error:
        name = type(error).__name__
        raise TransportError(f"{what}: {name}: {error}; check address, credentials, broker and topics") from error
