"""The reconciler: whatever is desired becomes what is served, and what fails is tried again."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from lmt2.artifacts import ArtifactStore
from lmt2.errors import ArtifactError, ServingError
from lmt2.ledger import DocumentRow, Ledger, PromotionRow, ReplicaRow, VersionRow, now
from lmt2.models.local import LocalModel
from memory.versioned import VersionedModel
from serving import reconciler as module
from serving.backend import BASE
from serving.engine import EmbeddedEngine
from serving.reconciler import Reconciler
from tests.support.tiny import WordEncoder, tiny_model, tiny_shard, tiny_version


class Bench:
    """A ledger, two versions in it, and the records of what was loaded."""

    def __init__(self, folder: Path, model: LocalModel) -> None:
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.ledger.migrate()
        store = ArtifactStore(str(folder / "artifacts"))
        shards = [tiny_shard(WordEncoder()(["a question"]), seed=seed) for seed in (1, 2)]
        self.versions = {v.manifest.id: v for v in (tiny_version(model, store, [shard]) for shard in shards)}
        self.first, self.second = self.versions
        with self.ledger.begin() as session:
            for name, version in self.versions.items():
                manifest = version.manifest.model_dump(mode="json")
                session.add(VersionRow(id=name, update_id=None, state="accepted", manifest=manifest))

    def load(self, version: str) -> VersionedModel:
        return self.versions[version]

    def promote(self, version: str, decision: str | None = None) -> None:
        with self.ledger.begin() as session:
            session.add(PromotionRow(version_id=version, cause="test", decision=decision))

    def teach(self, version: str, seconds_ago: float) -> None:
        """Let the version's update have taught a document that came in a while ago."""
        with self.ledger.begin() as session:
            session.get_one(VersionRow, version).update_id = "update-0"
            row = DocumentRow(id="doc-0", event_key="k", content_hash="h", place="p", payload={}, state="learnt")
            row.event_time = now() - timedelta(seconds=seconds_ago)
            session.add(row)

    def replica(self, name: str) -> ReplicaRow | None:
        with self.ledger.begin() as session:
            return session.get(ReplicaRow, name)


class Shaky:
    """A replica that fails as often as it is told to, and forgets when it is restarted."""

    def __init__(self, name: str, failures: int = 0) -> None:
        self.name = name
        self.failures = failures
        self.swaps: list[str | None] = []
        self._version: str | None = None

    def served(self) -> str | None:
        return self._version

    def swap(self, version: VersionedModel | None) -> None:
        self.swaps.append(None if version is None else version.manifest.id)
        if self.failures:
            self.failures -= 1
            raise ServingError("no space left for adapters")
        self._version = self.swaps[-1]

    def restart(self) -> None:
        self._version = None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return LocalModel(tiny_model(tmp_path_factory.mktemp("tiny")), "float32")


@pytest.fixture
def bench(tmp_path: Path, model: LocalModel) -> Iterator[Bench]:
    bench = Bench(tmp_path, model)
    yield bench
    bench.ledger.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A monotonic clock that a test moves by hand."""
    seconds = [100.0]

    class Time:
        monotonic = staticmethod(lambda: seconds[0])

    monkeypatch.setattr(module, "time", Time)
    return seconds


def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait for a condition; returns how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - started


def gauge(replica: str, version: str) -> float | None:
    return REGISTRY.get_sample_value("lmt2_serving_version_info", {"replica": replica, "version": version})


def freshness() -> tuple[float, float]:
    count = REGISTRY.get_sample_value("lmt2_freshness_seconds_count")
    total = REGISTRY.get_sample_value("lmt2_freshness_seconds_sum")
    assert count is not None
    assert total is not None
    return count, total


def test_rollback_is_effective_within_a_second(bench: Bench, model: LocalModel) -> None:
    engine = EmbeddedEngine(model, 4, 4, name="embedded")
    reconciler = Reconciler(bench.ledger, [engine], bench.load)
    try:
        bench.promote(bench.first)
        reconciler.start()
        assert engine.served() == bench.first  # before anything else is done
        bench.promote(bench.second)
        until(lambda: engine.served() == bench.second)
        bench.promote(bench.first)
        assert until(lambda: engine.served() == bench.first) < 1
        until(lambda: gauge("embedded", bench.first) == 1)
        assert gauge("embedded", bench.second) is None
        row = bench.replica("embedded")
        assert row is not None
        assert row.version_id == bench.first
    finally:
        reconciler.stop()
        engine.stop()


def test_nothing_is_ready_before_the_first_pass_nor_while_another_version_is_served(bench: Bench) -> None:
    target = Shaky("shaky")
    reconciler = Reconciler(bench.ledger, [target], bench.load)
    assert not reconciler.is_ready()
    reconciler.reconcile()
    assert reconciler.is_ready()  # no version is desired, and the base is served
    target.failures = 1
    bench.promote(bench.first)
    reconciler.reconcile()
    assert not reconciler.is_ready()


def test_a_failing_replica_is_tried_again_ever_less_often_and_says_why(bench: Bench, clock: list[float]) -> None:
    target = Shaky("shaky", failures=3)
    reconciler = Reconciler(bench.ledger, [target], bench.load)
    bench.promote(bench.first)
    tries = []
    for _ in range(100):
        reconciler.reconcile()
        tries.append(len(target.swaps))
        if reconciler.is_ready():
            break
        row = bench.replica("shaky")
        assert row is not None
        assert (row.version_id, row.error) == (BASE, "no space left for adapters")
        clock[0] += 0.05
    waits = [0.05 * tries.count(number) for number in (1, 2, 3)]
    assert waits == pytest.approx([0.2, 0.4, 0.8], abs=0.06)
    row = bench.replica("shaky")
    assert row is not None
    assert (row.version_id, row.error) == (bench.first, "")


def test_a_newly_desired_version_does_not_wait_for_an_old_ones_failures(bench: Bench, clock: list[float]) -> None:
    target = Shaky("shaky", failures=1)
    reconciler = Reconciler(bench.ledger, [target], bench.load)
    bench.promote(bench.first)
    reconciler.reconcile()
    bench.promote(bench.second)
    reconciler.reconcile()
    assert target.served() == bench.second
    assert reconciler.is_ready()


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_served(bench: Bench) -> None:
    def load(version: str) -> VersionedModel:
        if version == bench.second:
            raise ArtifactError("the artifact is damaged")
        return bench.versions[version]

    target = Shaky("shaky")
    reconciler = Reconciler(bench.ledger, [target], load)
    bench.promote(bench.first)
    reconciler.reconcile()
    bench.promote(bench.second)
    reconciler.reconcile()
    assert target.served() == bench.first
    row = bench.replica("shaky")
    assert row is not None
    assert (row.version_id, row.error) == (bench.first, "the artifact is damaged")


def test_a_replica_that_forgot_its_version_gets_it_back(bench: Bench, clock: list[float]) -> None:
    target = Shaky("shaky")
    reconciler = Reconciler(bench.ledger, [target], bench.load)
    bench.promote(bench.first)
    reconciler.reconcile()
    target.restart()
    clock[0] += module.CHECK_SECONDS
    reconciler.reconcile()
    assert target.swaps == [bench.first, bench.first]


def test_a_replica_that_lies_is_not_believed(bench: Bench) -> None:
    class Deaf(Shaky):
        def served(self) -> str | None:
            return None

    reconciler = Reconciler(bench.ledger, [Deaf("deaf")], bench.load)
    bench.promote(bench.first)
    reconciler.reconcile()
    assert not reconciler.is_ready()
    row = bench.replica("deaf")
    assert row is not None
    assert "says that it serves None" in row.error


def test_freshness_is_observed_once_for_a_promoted_document(bench: Bench) -> None:
    bench.teach(bench.first, seconds_ago=60)
    count, total = freshness()
    targets = [Shaky("one"), Shaky("two")]
    reconciler = Reconciler(bench.ledger, targets, bench.load)
    bench.promote(bench.first, decision="d-1")
    reconciler.reconcile()
    assert freshness()[0] == count + 1
    assert freshness()[1] - total == pytest.approx(60, abs=5)

    restarted = Reconciler(bench.ledger, [Shaky("one"), Shaky("two")], bench.load)
    restarted.reconcile()
    bench.promote(bench.second, decision="d-2")  # this one teaches nothing
    restarted.reconcile()
    bench.promote(bench.first)  # a rollback
    restarted.reconcile()
    assert freshness()[0] == count + 1


def test_the_ledger_may_go_away_for_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Shaky("shaky")
    reconciler = Reconciler(bench.ledger, [target], bench.load)
    reconciler.start()
    try:
        begin, refused = bench.ledger.begin, []

        def refuse() -> None:
            refused.append(1)
            raise OSError("the disk is gone")

        monkeypatch.setattr(bench.ledger, "begin", refuse)
        until(lambda: len(refused) > 1)
        monkeypatch.setattr(bench.ledger, "begin", begin)
        bench.promote(bench.first)
        until(lambda: target.served() == bench.first)
    finally:
        reconciler.stop()
