"""The loop that every stage runs: read records, work on them, make the effects durable, then commit.

The order is what makes "nothing lost, nothing twice" true:

1. work on a record, touching nothing (this may take minutes; polling goes on meanwhile, with fetching paused);
2. one ledger transaction writes the effect *and* the records that it owes the log (the outbox);
3. the outbox is sent and acknowledged by the log, then emptied;
4. the record's offset is committed.

After a crash before 2 the record is worked on again. After a crash between 2 and 4 the outbox is sent (again) at the
next start, or by another member within seconds, and the record, read again, finds its effect in the ledger. Readers
drop repeats the same way.

Several records are read at once, and those that a look settles (repeats, dead letters) go through 2 to 4 together.
The first that takes work ends such a group, for it must find all effects before it in the ledger; what was read
behind it is put back, so that nothing waits in a member's memory while its partition may move to another one.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sqlalchemy import delete
from sqlalchemy.orm import Session

from lmt2 import ledger as rows
from lmt2 import telemetry
from lmt2.errors import EventError, ModelMissing, StorageError, TransportError
from lmt2.events import DEAD_LETTERS
from lmt2.ledger import Ledger
from lmt2.transport.base import Consumer, Outgoing, Producer, Record, Transport

POLL_SECONDS = 0.2
MOST = 500  # records that are settled together
GROUP_SECONDS = 0.5  # and how long that may take
SWEEP_SECONDS = 10.0  # how often a member sends what others of its stage still owe, for they may have died
ATTEMPTS = 3
NOT_THE_RECORDS_FAULT = (StorageError, TransportError, ModelMissing)  # stop, and read it again after a restart

T = TypeVar("T")


def nothing(_: Session) -> None:
    """The effect of a record that changes nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a record leads to: an effect for the ledger's transaction, and records to send."""

    effect: Callable[[Session], Sequence[Outgoing] | None] = nothing  # may find out only there what is to be sent, too
    records: Sequence[Outgoing] = field(default_factory=tuple)


class Worker(Protocol):
    """One stage's work. It reads what it likes and writes nothing: outcomes are written for it."""

    name: str
    topic: str

    def settle(self, records: Sequence[Record], session: Session) -> Iterable[Outcome | EventError]:  # noqa: ARG002
        """What the first of these records lead to, up to one that takes work; an error makes a dead letter.

        A shortcut for those that a look at the record and the ledger settles; `work` must know all of them, too.
        """
        return ()

    def idle(self, session: Session) -> Sequence[Outgoing]:  # noqa: ARG002
        """What is due without a record for it; asked between records, and may write to the ledger."""
        return ()

    def give_up(self, record: Record, session: Session) -> None:
        """Note in the ledger that a record became a dead letter; it may be replayed."""
        del record, session  # nothing, unless a stage has something to note

    def work(self, record: Record) -> Outcome:
        """What a record leads to.

        Raises:
            EventError: the record can't be used; it becomes a dead letter.
        """
        ...


def never(_: Session) -> bool:
    """The answer of a stage that nobody can hold."""
    return False


class Stage:
    """Runs a worker on a topic until told to stop. While `is_on_hold` says so it begins no record."""

    def __init__(
        self,
        worker: Worker,
        transport: Transport,
        ledger: Ledger,
        group_prefix: str = "lmt2",
        is_on_hold: Callable[[Session], bool] = never,
    ) -> None:
        self.worker = worker
        self._is_on_hold = is_on_hold
        self._transport = transport
        self._ledger = ledger
        self._group = f"{group_prefix}.{worker.name}"
        self._member = f"{worker.name}/{uuid.uuid4().hex}"  # whose records no other sends, as long as it sends them
        self._log = telemetry.logger(worker.name)
        self._stop = threading.Event()
        self._polled = 0.0  # when, by the monotonic clock

    def stop(self) -> None:
        """Ask the loop to end after the record in hand; safe from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Read and work until `stop`. Errors of storage and transport end it: nothing uncommitted is lost."""
        producer = self._transport.producer()
        consumer = self._transport.consumer(self.worker.topic, self._group)
        most, next_sweep = MOST, 0.0
        self._polled = time.monotonic()
        with ThreadPoolExecutor(1, thread_name_prefix=self.worker.name) as hands:
            try:
                while not self._stop.is_set():
                    if time.monotonic() >= next_sweep:
                        self._send_owed(producer, by=self.worker.name)
                        next_sweep = time.monotonic() + SWEEP_SECONDS
                    is_on_hold = self._hold_or_go_on(consumer)
                    # Where every record takes work, reading more than one would be for nothing.
                    most = min(2 * most, MOST) if self._take(most, hands, consumer, producer) else 1
                    if not is_on_hold:
                        self._idle(producer)
                    telemetry.consumer_lag.labels(self.worker.topic).set(consumer.lag())
            finally:
                consumer.close()
                producer.close()

    def _idle(self, producer: Producer) -> None:
        """What the worker does by itself, with the same order: an effect with what it owes, then the sending."""
        with self._ledger.begin() as session:
            due = self.worker.idle(session)
            rows.owe(session, self._member, due)
        if due:
            self._send_owed(producer, by=self._member)

    def _hold_or_go_on(self, consumer: Consumer) -> bool:
        with self._ledger.begin() as session:
            is_on_hold = self._is_on_hold(session)
        if is_on_hold:
            consumer.pause()
        else:
            consumer.resume()
        return is_on_hold

    def _take(self, most: int, hands: ThreadPoolExecutor, consumer: Consumer, producer: Producer) -> bool:
        """Read once, and go through it up to the first record that takes work; returns whether a look settled all."""
        records = self._poll(consumer, most)
        settled = self._settle(records)
        for record in records[: settled + 1]:
            telemetry.queue_seconds.labels(record.topic).observe(max(0.0, time.time() - record.timestamp))
        self._finish(records[:settled], consumer, producer)
        if settled < len(records) and not self._stop.is_set():
            consumer.put_back(records[settled + 1 :])
            self._process(records[settled], hands, consumer, producer)
        return settled == len(records)

    def _settle(self, records: Sequence[Record]) -> int:
        """Keep what the first records lead to, as far as a look tells it, in one transaction; returns how many."""
        if not records:
            return 0
        count, deadline = 0, time.monotonic() + GROUP_SECONDS
        try:
            with self._ledger.begin() as session:
                for record, outcome in zip(records, self.worker.settle(records, session), strict=False):
                    if isinstance(outcome, EventError):
                        outcome = self._dead_letter(record, outcome, 1)
                    self._write(session, outcome)
                    count += 1
                    if time.monotonic() > deadline:
                        break
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001 (a record must not stop the stream)
            self._log.warning("a group was not kept", place=records[0].place, records=count, exc_info=error)
            return self._settle(records[: count // 2])  # the one at fault comes to be worked on by itself
        return count

    def _poll(self, consumer: Consumer, most: int = 1) -> list[Record]:
        before, self._polled = self._polled, time.monotonic()
        telemetry.poll_interval_seconds.labels(self.worker.topic).observe(self._polled - before)
        return consumer.poll(POLL_SECONDS, most)

    def _process(self, record: Record, hands: ThreadPoolExecutor, consumer: Consumer, producer: Producer) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._keep(self._wait(hands.submit(self.worker.work, record), consumer))
                break
            except NOT_THE_RECORDS_FAULT:
                raise
            except Exception as error:  # noqa: BLE001 (a record must not stop the stream)
                if attempt == ATTEMPTS or isinstance(error, EventError):
                    self._keep(self._dead_letter(record, error, attempt))
                    break
                # An effect may also have lost a race against another member: working again finds it in the ledger.
                self._log.warning("work failed", place=record.place, attempt=attempt, exc_info=error)
                self._wait(hands.submit(self._stop.wait, attempt), consumer)
        self._finish([record], consumer, producer)

    def _finish(self, records: Sequence[Record], consumer: Consumer, producer: Producer) -> None:
        """Send what the effects owe and then commit."""
        if records:
            self._send_owed(producer, by=self._member)
            consumer.commit(records)

    def _wait(self, work: "Future[T]", consumer: Consumer) -> T:
        """The result of the work; if that takes long, the group membership is kept alive meanwhile."""
        if not wait([work], POLL_SECONDS).done:
            consumer.pause()
            try:
                while not work.done():
                    self._poll(consumer)
            finally:
                consumer.resume()
        return work.result()

    def _keep(self, outcome: Outcome) -> None:
        with self._ledger.begin() as session:
            self._write(session, outcome)

    def _write(self, session: Session, outcome: Outcome) -> None:
        more = outcome.effect(session) or ()
        rows.owe(session, self._member, [*outcome.records, *more])

    def _dead_letter(self, record: Record, error: Exception, attempts: int) -> Outcome:
        self._log.warning("dead letter", place=record.place, error=type(error).__name__, message=str(error))
        telemetry.dead_letters_total.labels(type(error).__name__).inc()
        about = {
            "lmt2-topic": record.topic,
            "lmt2-partition": str(record.partition),
            "lmt2-offset": str(record.offset),
            "lmt2-time": str(record.timestamp),
            "lmt2-error": type(error).__name__,
            "lmt2-message": str(error)[:1000],
            "lmt2-attempts": str(attempts),
        }
        # A message may quote half a surrogate pair, which UTF-8 has no bytes for.
        encoded = {name: text.encode(errors="backslashreplace") for name, text in about.items()}
        letter = Outgoing(DEAD_LETTERS, record.value, record.key, {**record.headers, **encoded})
        return Outcome(lambda session: self.worker.give_up(record, session), (letter,))

    def _send_owed(self, producer: Producer, by: str) -> None:
        with self._ledger.begin() as session:
            owed = rows.owed(session, by)
        if not owed:
            return
        producer.send([record for _, record in owed])
        with self._ledger.begin() as session:
            session.execute(delete(rows.OutboxRow).where(rows.OutboxRow.id.in_([number for number, _ in owed])))
