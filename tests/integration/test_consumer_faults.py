"""What the benchmark counts by the hundred, a few times: kills, restarts and rebalances, and events that are odd."""

from pathlib import Path

import pytest

from benchmarks.consumer import faults, fuzz
from lmt2.config import Settings
from tests.support.kafka import require_jars


@pytest.mark.kafka
@pytest.mark.parametrize(("fault", "count"), [("kills", 4), ("restarts", 1), ("rebalances", 2)])
def test_nothing_is_lost_and_nothing_done_twice(fault: str, count: int, tmp_path: Path) -> None:
    counted = faults.run(require_jars(), tmp_path, {fault: count})[fault]
    assert (counted["lost"], counted["effects twice"], counted["wrongly dead"]) == (0, 0, 0)
    assert counted["accepted"] > 0


def test_every_odd_event_is_accounted_for(tmp_path: Path) -> None:
    found = fuzz.run(Settings(home=tmp_path), 300)
    assert found["sent"] == sum(found.get(end, 0) for end in ("accepted", "duplicate", "quarantined", "dead")) == 300
    assert found["dead"] == found["dead by EventError"], "what else is raised would have been tried three times"
    assert min(found["accepted"], found["duplicate"], found["quarantined"]) > 0
