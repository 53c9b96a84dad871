"""What the real probe model says of documents that are common knowledge, and of invented ones."""

from pathlib import Path

import pytest

from benchmarks.planted import DATA, planted
from consumer.kaft import score
from lmt2.config import ConsumerSettings
from lmt2.models.local import LocalModel


@pytest.mark.model
def test_known_documents_conflict_less_than_new_ones(smollm2: Path) -> None:
    probe, settings = LocalModel(smollm2), ConsumerSettings(samples=2)
    found: dict[str, list[float]] = {"known": [], "new": []}
    for sort, _, lessons in planted(DATA / "facts"):
        if len(found.get(sort, [0] * 3)) < 3:
            found[sort].append(score(lessons, probe, settings).conflict)
    assert max(found["known"]) < min(found["new"])
