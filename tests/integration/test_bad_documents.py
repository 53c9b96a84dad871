"""Documents with nothing to learn, with the real models: each ends in its budget, with a reason in the ledger."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.worker import ConsumerWorker
from lmt2.config import Settings, StudySettings
from lmt2.events import DOCUMENTS
from lmt2.ledger import DocumentRow, LessonRow
from lmt2.pipeline import Parts
from lmt2.transport.base import Record

pytestmark = [pytest.mark.model, pytest.mark.slow]

FILE = Path(__file__).parents[2] / "benchmarks" / "data" / "bad.jsonl"
DOCUMENTS_TO_REFUSE: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
SECONDS = 30.0
ROUND = 180.0  # what has begun is finished and weighed, on two slow cores that others share


@pytest.fixture(scope="module")
def parts(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    assert smollm2.is_dir()
    parts = Parts(Settings(home=tmp_path_factory.mktemp("home"), study=StudySettings(seconds=SECONDS)))
    yield parts
    parts.ledger.close()


@pytest.mark.parametrize("document", DOCUMENTS_TO_REFUSE, ids=lambda document: document["id"])
def test_it_ends_in_its_budget_with_a_reason(parts: Parts, document: dict[str, Any]) -> None:
    worker = ConsumerWorker(parts.settings, parts.ledger, parts.scholar, parts.model, parts.encoder)
    value = json.dumps({name: document[name] for name in ("id", "title", "text")}).encode()
    started = time.monotonic()
    outcome = worker.work(Record(DOCUMENTS, 0, 0, value, timestamp=time.time()))
    assert time.monotonic() - started < SECONDS + ROUND
    with parts.ledger.begin() as session:
        outcome.effect(session)
    with parts.ledger.begin() as session:
        row = session.get(DocumentRow, document["id"])
        assert row is not None
        assert row.reason
        lessons = [x.lesson for x in session.query(LessonRow).filter_by(document_id=row.id)]
        if document["id"] in ("nothing-to-ask", "injection", "gibberish"):
            assert row.state == "quarantined"
        assert not any("hunter2" in lesson.answer for lesson in lessons)
