"""The stage loop on the embedded log and a real ledger: nothing lost, nothing twice, whatever happens when."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lmt2.config import TelemetrySettings
from lmt2.errors import EventError, ModelMissing, StorageError, TransportError
from lmt2.events import DEAD_LETTERS
from lmt2.ledger import ControlRow, Ledger, owe, owed
from lmt2.stage import Outcome, Stage, Worker
from lmt2.telemetry import configure_logging
from lmt2.transport.base import Outgoing, Record
from lmt2.transport.embedded import EmbeddedConsumer, EmbeddedProducer, EmbeddedTransport

SECONDS = 30
Work = Callable[[Record], Outcome]


class Killed(BaseException):
    """Ends a stage where it stands, as a kill does: nothing catches it."""


class Copier(Worker):
    """Keeps each record's value in the ledger once, and sends it on."""

    name = "copier"
    topic = "in"

    def __init__(self, ledger: Ledger, first: Work | None = None) -> None:
        self._ledger = ledger
        self._first = first
        self.worked: list[bytes] = []

    def work(self, record: Record) -> Outcome:
        self.worked.append(record.value)
        if self._first:
            self._first(record)
        with self._ledger.begin() as session:
            if session.get(ControlRow, record.value.decode()):
                return Outcome()
        return Outcome(lambda session: keep(session, record), [Outgoing("out", record.value)])


class Settler(Copier):
    """Settles all records at a look, but for those whose value begins with "work"."""

    def settle(self, records: Sequence[Record], _: Session) -> Iterator[Outcome | EventError]:
        for record in records:
            if record.value.startswith(b"work"):
                return
            try:
                yield self.work(record)
            except EventError as error:
                yield error


class Reminder(Copier):
    """Sends something by itself, once, where no record has to come for it."""

    def idle(self, session: Session) -> Sequence[Outgoing]:
        if session.get(ControlRow, "reminded"):
            return ()
        session.add(ControlRow(name="reminded", value="yes"))
        return [Outgoing("out", b"reminder")]


def keep(session: Session, record: Record) -> None:
    session.add(ControlRow(name=record.value.decode(), value=""))
    session.flush()


class KillingProducer(EmbeddedProducer):
    def __init__(self, path: Path, kill: Callable[[str], None]) -> None:
        super().__init__(path)
        self._kill = kill

    def send(self, records: Sequence[Outgoing]) -> None:
        self._kill("before the records are sent")
        super().send(records)
        self._kill("after the records are sent")


class KillingConsumer(EmbeddedConsumer):
    def __init__(self, path: Path, topic: str, group: str, kill: Callable[[str], None]) -> None:
        super().__init__(path, topic, group)
        self._kill = kill

    def commit(self, records: Sequence[Record]) -> None:
        self._kill("before the offset is committed")
        super().commit(records)
        self._kill("after the offset is committed")


class KillingTransport(EmbeddedTransport):
    """Kills at the second time that a place is reached."""

    def __init__(self, path: Path, place: str) -> None:
        super().__init__(path)
        self._path = path
        self._place = place
        self._times = 0

    def kill(self, place: str) -> None:
        self._times += place == self._place
        if place == self._place and self._times == 2:
            raise Killed

    def producer(self) -> EmbeddedProducer:
        return KillingProducer(self._path, self.kill)

    def consumer(self, topic: str, group: str) -> EmbeddedConsumer:
        return KillingConsumer(self._path, topic, group, self.kill)


@pytest.fixture(autouse=True)
def logging() -> Iterator[None]:
    configure_logging(TelemetrySettings())
    yield
    structlog.reset_defaults()


@pytest.fixture
def transport(tmp_path: Path) -> EmbeddedTransport:
    return EmbeddedTransport(tmp_path / "events.db")


def send(transport: EmbeddedTransport, *values: bytes) -> None:
    producer = transport.producer()
    producer.send([Outgoing("in", value, b"key", {"content-type": b"text/plain"}) for value in values])
    producer.close()


def kept(ledger: Ledger) -> list[str]:
    with ledger.begin() as session:
        return sorted(session.scalars(select(ControlRow.name)))


def sent(transport: EmbeddedTransport, topic: str = "out") -> list[bytes]:
    return [record.value for record in transport.read_all(topic)]


def uncommitted(transport: EmbeddedTransport) -> list[Record]:
    consumer = transport.consumer("in", "lmt2.copier")
    records = consumer.poll(0, 10)
    consumer.close()
    return records


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(stage: Stage) -> Iterator[None]:
    thread = threading.Thread(target=stage.run)
    thread.start()
    try:
        yield
    finally:
        stage.stop()
        thread.join()


def run_until(stage: Stage, condition: Callable[[], bool]) -> None:
    with running(stage):
        wait_until(condition)


def failing(error: Exception, times: int) -> Work:
    """Work that raises an error the first times that it is done."""
    left = [error] * times

    def work(_: Record) -> Outcome:
        if left:
            raise left.pop()
        return Outcome()

    return work


def test_each_record_is_kept_and_sent_on_once(transport: EmbeddedTransport, ledger: Ledger) -> None:
    send(transport, b"1", b"2", b"3")
    run_until(Stage(Copier(ledger), transport, ledger), lambda: len(sent(transport)) == 3)
    assert kept(ledger) == ["1", "2", "3"]
    assert sent(transport) == [b"1", b"2", b"3"]
    assert uncommitted(transport) == []


def test_quick_records_are_not_held_up(transport: EmbeddedTransport, ledger: Ledger) -> None:
    send(transport, *(str(number).encode() for number in range(60)))
    start = time.monotonic()
    run_until(Stage(Copier(ledger), transport, ledger), lambda: len(sent(transport)) == 60)
    assert time.monotonic() - start < 60 * 0.2, "a poll's time for each record"


@pytest.mark.parametrize(
    "place",
    [
        "before the records are sent",
        "after the records are sent",
        "before the offset is committed",
        "after the offset is committed",
    ],
)
@pytest.mark.parametrize("kind", [Copier, Settler])
def test_after_a_kill_nothing_is_lost_and_nothing_is_kept_twice(
    tmp_path: Path, ledger: Ledger, place: str, kind: type[Copier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmt2.stage.MOST", 2)
    transport = KillingTransport(tmp_path / "events.db", place)
    send(EmbeddedTransport(tmp_path / "events.db"), b"1", b"2", b"3", b"4", b"5")
    with pytest.raises(Killed):
        Stage(kind(ledger), transport, ledger).run()
    assert set(kept(ledger)) < {"1", "2", "3", "4", "5"}
    run_until(Stage(kind(ledger), transport, ledger), lambda: len(set(sent(transport))) == 5)
    assert kept(ledger) == ["1", "2", "3", "4", "5"]
    in_hand = 1 if kind is Copier else 2
    assert len(sent(transport)) <= 5 + in_hand, "only what was in hand may be sent again"
    assert uncommitted(transport) == []
    with ledger.begin() as session:
        assert owed(session, "copier") == []


@pytest.mark.parametrize("has_written", [False, True])
def test_after_a_kill_in_the_transaction_the_record_is_worked_on_again(
    transport: EmbeddedTransport, ledger: Ledger, has_written: bool
) -> None:
    class Dying(Copier):
        def work(self, record: Record) -> Outcome:
            return Outcome(self.die, super().work(record).records)

        def die(self, session: Session) -> None:
            if has_written:
                session.add(ControlRow(name="1", value=""))
                session.flush()
            raise Killed

    send(transport, b"1")
    with pytest.raises(Killed):
        Stage(Dying(ledger), transport, ledger).run()
    assert kept(ledger) == []
    assert sent(transport) == []
    run_until(Stage(Copier(ledger), transport, ledger), lambda: sent(transport) == [b"1"])
    assert kept(ledger) == ["1"]


def test_after_a_kill_in_the_work_the_record_is_worked_on_again(transport: EmbeddedTransport, ledger: Ledger) -> None:
    def die(_: Record) -> Outcome:
        raise Killed

    send(transport, b"1")
    with pytest.raises(Killed):
        Stage(Copier(ledger, die), transport, ledger).run()
    run_until(Stage(Copier(ledger), transport, ledger), lambda: sent(transport) == [b"1"])
    assert kept(ledger) == ["1"]


def test_what_was_owed_at_the_crash_is_sent_at_the_start(transport: EmbeddedTransport, ledger: Ledger) -> None:
    with ledger.begin() as session:
        owe(session, "copier", [Outgoing("out", b"owed", b"key", {"h": b"\xff"})])
        owe(session, "other", [Outgoing("out", b"not ours")])
    run_until(Stage(Copier(ledger), transport, ledger), lambda: sent(transport) == [b"owed"])
    with ledger.begin() as session:
        assert owed(session, "copier") == []
        assert len(owed(session, "other")) == 1


@pytest.mark.parametrize("kind", [Copier, Settler])
def test_a_record_that_can_not_be_used_becomes_a_dead_letter(
    transport: EmbeddedTransport, ledger: Ledger, kind: type[Copier]
) -> None:
    poison = bytes(range(256))

    def refuse(record: Record) -> Outcome:
        if record.value == poison:
            raise EventError("half a pair \ud800, and why")
        return Outcome()

    send(transport, b"1", poison, b"2")
    run_until(Stage(kind(ledger, refuse), transport, ledger), lambda: kept(ledger) == ["1", "2"])
    (letter,) = transport.read_all(DEAD_LETTERS)
    assert (letter.value, letter.key) == (poison, b"key")
    about = {name: value.decode() for name, value in letter.headers.items()}
    assert float(about.pop("lmt2-time")) == pytest.approx(time.time(), abs=SECONDS)
    assert about == {
        "content-type": "text/plain",
        "lmt2-topic": "in",
        "lmt2-partition": "0",
        "lmt2-offset": "1",
        "lmt2-error": "EventError",
        "lmt2-message": "half a pair \\ud800, and why",
        "lmt2-attempts": "1",
    }
    assert uncommitted(transport) == []


def test_work_that_fails_once_is_done_again(transport: EmbeddedTransport, ledger: Ledger) -> None:
    send(transport, b"1")
    copier = Copier(ledger, failing(RuntimeError("out of memory"), times=1))
    run_until(Stage(copier, transport, ledger), lambda: kept(ledger) == ["1"])
    assert copier.worked == [b"1", b"1"]
    assert sent(transport, DEAD_LETTERS) == []


def test_work_that_keeps_failing_becomes_a_dead_letter(
    transport: EmbeddedTransport, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmt2.stage.ATTEMPTS", 2)
    send(transport, b"1", b"2")
    copier = Copier(ledger, failing(RuntimeError("out of memory"), times=2))
    run_until(Stage(copier, transport, ledger), lambda: kept(ledger) == ["2"])
    (letter,) = transport.read_all(DEAD_LETTERS)
    assert (letter.value, letter.headers["lmt2-error"], letter.headers["lmt2-attempts"]) == (
        b"1",
        b"RuntimeError",
        b"2",
    )


def test_what_a_look_settles_is_finished_together(tmp_path: Path, ledger: Ledger) -> None:
    commits: list[int] = []

    class Counting(EmbeddedConsumer):
        def commit(self, records: Sequence[Record]) -> None:
            commits.append(len(records))
            super().commit(records)

    class Counted(EmbeddedTransport):
        def consumer(self, topic: str, group: str) -> EmbeddedConsumer:
            return Counting(tmp_path / "events.db", topic, group)

    transport = Counted(tmp_path / "events.db")
    values = [b"1", b"2", b"work 3", *(str(number).encode() for number in range(4, 101))]
    send(transport, *values)
    run_until(Stage(Settler(ledger), transport, ledger), lambda: sum(commits) == 100)
    assert commits == [2, 1, 1, 2, 4, 8, 16, 32, 34], "after work that takes long, carefully"
    assert sent(transport) == values
    assert len(kept(ledger)) == 100


def test_work_finds_all_effects_before_it_and_is_found_by_all_behind_it(
    transport: EmbeddedTransport, ledger: Ledger
) -> None:
    found: dict[bytes, int] = {}

    def look(record: Record) -> Outcome:
        found[record.value] = len(kept(ledger))
        return Outcome()

    values = [b"1", b"2", b"3", b"work 4", b"5", b"work 6", b"work 7", b"8"]
    send(transport, *values)
    run_until(Stage(Settler(ledger, look), transport, ledger), lambda: sent(transport) == values)
    assert {value: found[value] for value in (b"work 4", b"5", b"work 6", b"work 7", b"8")} == {
        b"work 4": 3,
        b"5": 4,
        b"work 6": 5,
        b"work 7": 6,
        b"8": 7,
    }
    assert uncommitted(transport) == []


def test_one_bad_effect_in_a_group_harms_no_other(
    transport: EmbeddedTransport, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Settler):
        def work(self, record: Record) -> Outcome:
            outcome = super().work(record)
            if record.value != b"12":
                return outcome
            return Outcome(lambda session: session.add(ControlRow(name="x", value=None)), outcome.records)

    monkeypatch.setattr("lmt2.stage.ATTEMPTS", 1)
    send(transport, *(str(number).encode() for number in range(20)))
    run_until(Stage(Wrong(ledger), transport, ledger), lambda: len(kept(ledger)) == 19)
    assert sent(transport, DEAD_LETTERS) == [b"12"]
    assert len(sent(transport)) == 19
    assert uncommitted(transport) == []


def test_an_effect_that_lost_a_race_is_found_in_the_ledger(transport: EmbeddedTransport, ledger: Ledger) -> None:
    """Another member of the group keeps the same record between our work and our transaction."""

    class Slow(Copier):
        def work(self, record: Record) -> Outcome:
            outcome = super().work(record)
            if len(self.worked) == 1:
                with ledger.begin() as session:
                    keep(session, record)
            return outcome

    send(transport, b"1")
    slow = Slow(ledger)
    run_until(Stage(slow, transport, ledger), lambda: len(slow.worked) == 2)
    assert kept(ledger) == ["1"]
    assert sent(transport, DEAD_LETTERS) == []
    assert uncommitted(transport) == []


def test_an_effect_that_can_not_be_kept_becomes_a_dead_letter(
    transport: EmbeddedTransport, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Copier):
        def work(self, record: Record) -> Outcome:
            return Outcome(lambda session: session.add(ControlRow(name="x", value=None)), super().work(record).records)

    monkeypatch.setattr("lmt2.stage.ATTEMPTS", 2)
    send(transport, b"1")
    run_until(Stage(Wrong(ledger), transport, ledger), lambda: sent(transport, DEAD_LETTERS) == [b"1"])
    (letter,) = transport.read_all(DEAD_LETTERS)
    assert letter.headers["lmt2-error"] == IntegrityError.__name__.encode()
    assert sent(transport) == []


@pytest.mark.parametrize("error", [StorageError("disk full"), TransportError("no broker"), ModelMissing("no files")])
def test_what_is_not_the_records_fault_stops_the_stage_without_a_commit(
    transport: EmbeddedTransport, ledger: Ledger, error: Exception
) -> None:
    send(transport, b"1")
    with pytest.raises(type(error), match=str(error)):
        Stage(Copier(ledger, failing(error, times=1)), transport, ledger).run()
    assert [record.value for record in uncommitted(transport)] == [b"1"]
    assert sent(transport, DEAD_LETTERS) == []
    run_until(Stage(Copier(ledger), transport, ledger), lambda: sent(transport) == [b"1"])


def test_a_full_disk_stops_the_stage_and_the_next_start_goes_on(transport: EmbeddedTransport, ledger: Ledger) -> None:
    class Big(Copier):
        def work(self, record: Record) -> Outcome:
            outcome = super().work(record)
            return Outcome(outcome.effect, [Outgoing("out", b"x" * 200_000)])

    with ledger.begin() as session:
        pages = session.scalar(text("PRAGMA page_count"))
        session.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
    send(transport, b"1")
    with pytest.raises(StorageError, match="disk is full"):
        Stage(Big(ledger), transport, ledger).run()
    assert kept(ledger) == []
    with ledger.begin() as session:
        session.execute(text("PRAGMA max_page_count = 1000000"))
    run_until(Stage(Big(ledger), transport, ledger), lambda: len(sent(transport)) == 1)
    assert kept(ledger) == ["1"]


def test_membership_is_kept_alive_during_long_work(tmp_path: Path, ledger: Ledger) -> None:
    polls: list[int] = []
    is_working = threading.Event()

    class Watched(EmbeddedConsumer):
        def poll(self, timeout: float, most: int) -> list[Record]:
            records = super().poll(timeout, most)
            if is_working.is_set():
                polls.append(len(records))
            return records

    class Watching(EmbeddedTransport):
        def consumer(self, topic: str, group: str) -> EmbeddedConsumer:
            return Watched(tmp_path / "events.db", topic, group)

    def long(_: Record) -> Outcome:
        is_working.set()
        wait_until(lambda: len(polls) >= 3)
        is_working.clear()
        return Outcome()

    transport = Watching(tmp_path / "events.db")
    send(transport, b"1", b"2")
    run_until(Stage(Copier(ledger, long), transport, ledger), lambda: kept(ledger) == ["1", "2"])
    assert set(polls) == {0}, "what comes meanwhile stays in the log"


def test_while_on_hold_no_record_is_begun(transport: EmbeddedTransport, ledger: Ledger) -> None:
    asked = threading.Semaphore(0)
    is_held = threading.Event()
    is_held.set()

    def is_on_hold(_: Session) -> bool:
        asked.release()
        return is_held.is_set()

    send(transport, b"1")
    copier = Copier(ledger)
    with running(Stage(copier, transport, ledger, is_on_hold=is_on_hold)):
        for _ in range(3):
            assert asked.acquire(timeout=SECONDS)
        assert copier.worked == []
        is_held.clear()
        wait_until(lambda: kept(ledger) == ["1"])


def test_stop_lets_the_record_in_hand_be_finished(transport: EmbeddedTransport, ledger: Ledger) -> None:
    def stop(_: Record) -> Outcome:
        stage.stop()
        return Outcome()

    send(transport, b"1", b"2")
    stage = Stage(Copier(ledger, stop), transport, ledger)
    stage.run()
    assert kept(ledger) == ["1"]
    assert [record.value for record in uncommitted(transport)] == [b"2"]


def test_groups_have_the_prefix_of_the_settings(transport: EmbeddedTransport, ledger: Ledger) -> None:
    send(transport, b"1")
    run_until(Stage(Copier(ledger), transport, ledger, "blue"), lambda: sent(transport) == [b"1"])
    assert len(uncommitted(transport)) == 1, "another group's place is its own"


def test_what_a_worker_does_by_itself_is_kept_and_sent_once(transport: EmbeddedTransport, ledger: Ledger) -> None:
    for _ in range(2):
        run_until(Stage(Reminder(ledger), transport, ledger), lambda: sent(transport) == [b"reminder"])
    send(transport, b"first")
    run_until(Stage(Reminder(ledger), transport, ledger), lambda: sent(transport) == [b"reminder", b"first"])


def test_a_kill_between_what_a_worker_did_by_itself_and_its_sending_loses_nothing(
    transport: EmbeddedTransport, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TransportError("no broker")

    with monkeypatch.context() as broken:
        broken.setattr(EmbeddedProducer, "send", refuse)
        with pytest.raises(TransportError):
            Stage(Reminder(ledger), transport, ledger).run()
    assert kept(ledger) == ["reminded"]
    run_until(Stage(Reminder(ledger), transport, ledger), lambda: sent(transport) == [b"reminder"])


def test_while_on_hold_a_worker_does_nothing_by_itself(transport: EmbeddedTransport, ledger: Ledger) -> None:
    asked = threading.Semaphore(0)

    def is_on_hold(_: Session) -> bool:
        asked.release()
        return True

    with running(Stage(Reminder(ledger), transport, ledger, is_on_hold=is_on_hold)):
        for _ in range(3):
            assert asked.acquire(timeout=SECONDS)
        assert kept(ledger) == []


class Mourner(Copier):
    """Notes the records that became dead letters."""

    def give_up(self, record: Record, session: Session) -> None:
        keep(session, record)


def test_a_worker_may_note_its_dead_letters(transport: EmbeddedTransport, ledger: Ledger) -> None:
    send(transport, b"1", b"2")
    mourner = Mourner(ledger, failing(EventError("no such thing"), times=1))
    run_until(Stage(mourner, transport, ledger), lambda: len(sent(transport)) == 1)
    assert sent(transport, DEAD_LETTERS) == [b"1"]
    assert kept(ledger) == ["1", "2"]
