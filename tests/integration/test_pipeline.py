"""The pipeline's start and end: the first version, single stages, and a disk that is full."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lmt2.child import lmt2_command
from lmt2.config import ModelSettings, Settings
from lmt2.errors import ConfigError, StorageError, TransportError
from lmt2.events import DOCUMENTS, UPDATES, Document, decode
from lmt2.ledger import DocumentRow, Ledger, PromotionRow, VersionRow, now
from lmt2.pipeline import Parts
from lmt2.stage import Outcome, Stage, Worker
from lmt2.transport.base import Outgoing, Record
from lmt2.transport.embedded import EmbeddedTransport
from producer.client import DocumentProducer
from tests.support.disk import SmallDisk, small_disk
from tests.support.tiny import tiny_model

SMALL = {"OMP_NUM_THREADS": "1", "LMT2_GATE_PORT": "0", "LMT2_SERVING_PORT": "0", "LMT2_TELEMETRY_METRICS_PORT": "0"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def fake_model(folder: Path, weights: bytes = b"") -> Path:
    """The outside of a model: enough for what looks at the files alone."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@contextmanager
def running(*command: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A stage, and the line with which it says that it runs; it must end in order when it is asked to."""
    process = subprocess.Popen(
        lmt2_command(*command), stdout=subprocess.PIPE, text=True, env={**os.environ, **SMALL, **environment}
    )
    with process:
        try:
            assert process.stdout
            yield process, process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_first_version_is_promoted_once_whoever_comes_first(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model=ModelSettings(name=str(fake_model(tmp_path / "model"))))
    for _ in range(2):
        with Parts(settings).ledger.begin() as session:
            assert session.scalar(select(func.count()).select_from(PromotionRow)) == 1
            assert session.scalar(select(VersionRow.state)) == "accepted"


def test_a_home_keeps_to_its_base_model(tmp_path: Path) -> None:
    first, second = (fake_model(tmp_path / name, name.encode()) for name in ("first", "second"))
    assert Parts(Settings(home=tmp_path, model=ModelSettings(name=str(first)))).ledger
    with pytest.raises(ConfigError, match="made for another base model"):
        assert Parts(Settings(home=tmp_path, model=ModelSettings(name=str(second)))).ledger


@pytest.mark.model
def test_stages_alone_answer_health_and_metrics(smollm2: Path, tmp_path: Path) -> None:
    model = str(tiny_model(tmp_path / "model"))
    elsewhere = {"LMT2_STUDY_ENDPOINT": "http://127.0.0.1:9", "LMT2_STUDY_ENDPOINT_MODEL": "nobody"}
    gate = running("gate", "--home", str(tmp_path), LMT2_MODEL_NAME=model)
    consumer = running("consumer", "--home", str(tmp_path), LMT2_MODEL_NAME=model, **elsewhere)
    with gate as (_, gate_says), consumer as (_, consumer_says):
        address = gate_says.split()[-1]
        assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
        port = consumer_says.split()[-1]
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").json() == {"status": "ok"}
        assert "lmt2_consumer_lag" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_a_full_disk_is_told_at_the_start(disk: SmallDisk, tmp_path: Path) -> None:
    model = fake_model(tmp_path / "model")
    disk.fill()
    environment = {**os.environ, **SMALL, "LMT2_MODEL_NAME": str(model), "LMT2_MODEL_ENCODER": str(model)}
    done = subprocess.run(
        lmt2_command("up", "--home", str(disk.path)), capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lmt2: ")
    assert "disk" in done.stderr


def test_what_a_full_disk_does_not_take_is_not_sent(disk: SmallDisk, tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    file.write_text("The mill at Arden was built in 1871.")
    disk.fill()
    done = subprocess.run(
        lmt2_command("produce", str(file), "--home", str(disk.path)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "check disk space" in done.stderr
    assert "sent" not in done.stdout


class Keeper(Worker):
    """A consumer that only writes down what it reads; it ends its stage with the last document."""

    name = "consumer"
    topic = DOCUMENTS

    def __init__(self) -> None:
        self.stage: Stage | None = None

    def work(self, record: Record) -> Outcome:
        document, _ = decode(record.value, Document)

        def effect(session: Session) -> None:
            session.add(
                DocumentRow(
                    id=document.id,
                    event_key=document.id,
                    content_hash=document.content_hash,
                    place=record.place,
                    payload=document.model_dump(mode="json"),
                    state="known",
                    event_time=now(),
                )
            )
            if document.id == "last" and self.stage:
                self.stage.stop()

        return Outcome(effect, (Outgoing(UPDATES, record.value),))


def stage_of(keeper: Keeper, transport: EmbeddedTransport, ledger: Ledger) -> Stage:
    keeper.stage = Stage(keeper, transport, ledger)
    return keeper.stage


def test_a_disk_that_fills_up_stops_the_stage_and_loses_nothing(disk: SmallDisk, tmp_path: Path) -> None:
    transport = EmbeddedTransport(tmp_path / "events.db")
    ledger = Ledger(f"sqlite:///{disk.path / 'ledger.db'}")
    ledger.migrate()
    sent = [Document(id=f"d{n}", text=f"{n} " + "long " * 10_000) for n in range(8)]
    with DocumentProducer(transport) as producer:
        producer.send([*sent, Document(id="last", text="The last one.")])
    disk.fill()
    with pytest.raises((StorageError, TransportError), match="check disk space"):
        stage_of(Keeper(), transport, ledger).run()
    disk.free()
    stage_of(Keeper(), transport, ledger).run()
    with ledger.begin() as session:
        assert set(session.scalars(select(DocumentRow.id))) == {document.id for document in sent} | {"last"}
    assert len(list(transport.read_all(UPDATES))) >= len(sent)
    ledger.close()
