"""A retraction through the real stages on the tiny model: learnt, taken back exactly, and learnt again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.consumer.lighthouses import Keeper, lighthouse
from gate import registry
from lmt2.cli import main
from lmt2.config import Settings
from lmt2.ledger import DocumentRow
from lmt2.models.base import Sampling
from lmt2.pipeline import STAGES, Parts
from lmt2.study.prompts import user
from lmt2.study.scholar import Scholar
from memory.versioned import VersionedModel
from producer.client import DocumentProducer
from tests.support.kill import settings
from tests.support.tiny import WordEncoder, tiny_model

SECONDS = 240.0  # a fraction of it on a machine that has nothing else to do


@contextmanager
def pipeline(chosen: Settings) -> Iterator[Parts]:
    """All stages at work in threads."""
    parts = Parts(chosen)
    vars(parts).update(encoder=WordEncoder(), scholar=Scholar(Keeper(), Keeper()))
    services = [stage(parts) for stage in STAGES.values()]
    threads = [threading.Thread(target=service.run) for service in services]
    for thread in threads:
        thread.start()
    try:
        yield parts
    finally:
        for service in services:
            service.stop()
        for thread in threads:
            thread.join(60)
        parts.ledger.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(parts: Parts) -> dict[str, str]:
    with parts.ledger.begin() as session:
        return {row.id: row.state for row in session.query(DocumentRow)}


def served(parts: Parts) -> VersionedModel:
    with parts.ledger.begin() as session:
        return parts.load_version(registry.present(session).id)


def retract(home: Path, *names: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["retract", *names, "--wait", "--timeout", str(SECONDS), "--home", str(home)])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.model
@pytest.mark.slow
def test_a_document_is_taken_back_and_learnt_again(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    light = lighthouse(0)
    question = [user(f"Who keeps {light.text.partition('keeps ')[2].partition(' in good')[0]}?")]

    def answer(version: VersionedModel) -> str:
        return version.generate([question], Sampling(max_new_tokens=8))[0]

    with pipeline(settings(tmp_path, tiny_model(tmp_path / "model"))) as parts:
        untouched = answer(served(parts))
        with DocumentProducer(parts.transport) as producer:
            producer.send([light])
        wait_for(lambda: states(parts).get(light.id) == "learnt")
        assert answer(served(parts)) != untouched

        # Taken back: no shard is left, and the answer is the base model's to the letter.
        assert retract(tmp_path, light.id) == 0
        assert served(parts).manifest.shards == ()
        assert answer(served(parts)) == untouched
        assert f"{light.id}: retracted" in capsys.readouterr().out

        # Again: nothing changes. Unheard of: it is told. Sent again: it is learnt again.
        assert retract(tmp_path, light.id) == 0
        assert retract(tmp_path, "nobody") == 1
        assert "there is no document nobody" in capsys.readouterr().out
        with DocumentProducer(parts.transport) as producer:
            producer.send([light])
        wait_for(lambda: states(parts)[light.id] == "learnt")
        assert [shard.documents for shard in served(parts).manifest.shards] == [(light.id,)]
