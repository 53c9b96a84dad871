"""`lmt2 produce --wait` follows what it sent to the end, whatever that is."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from lmt2.child import lmt2_command
from lmt2.cli import main
from lmt2.errors import EventError
from lmt2.events import CANDIDATES, DOCUMENTS, UPDATES, Document, Lesson, UpdateRequest, decode, encode
from lmt2.ledger import DecisionRow, DocumentRow, Ledger, LessonRow, UpdateRow, VersionRow, now
from lmt2.stage import Outcome, Stage, Worker
from lmt2.transport.base import Outgoing, Record
from lmt2.transport.embedded import EmbeddedTransport


class Taster(Worker):
    """A consumer that refuses what is bad, knows what is old, and has the rest learnt."""

    name = "consumer"
    topic = DOCUMENTS

    def work(self, record: Record) -> Outcome:
        document, _ = decode(record.value, Document)
        if document.id == "bad":
            raise EventError("text: it tastes bad")
        request = UpdateRequest(
            id=f"u-{document.id}", documents=(document,), lessons=(), probes=(), reason="conflict", event_time=now()
        )

        def effect(session: Session) -> None:
            session.add(self._row(document, record))
            session.flush()
            lesson = Lesson(question="Who?", answer="Ann", kind="direct", document=document.id)
            session.add(LessonRow(document_id=document.id, payload=lesson.model_dump(mode="json"), held_out=False))
            if document.id == "new":
                session.add(UpdateRow(id=request.id, state="requested", payload=request.model_dump(mode="json")))

        value = encode(request, id=request.id, source="test")
        return Outcome(effect, (Outgoing(UPDATES, value),) if document.id == "new" else ())

    def _row(self, document: Document, record: Record) -> DocumentRow:
        return DocumentRow(
            id=document.id,
            event_key=document.id,
            content_hash=document.content_hash,
            place=record.place,
            payload=document.model_dump(mode="json"),
            state="known" if document.id == "old" else "requested",
            reason="known" if document.id == "old" else "conflict",
            conflict=0.5,
            event_time=now(),
        )


class Oracle(Worker):
    """Learner and gate in one: whatever is asked for is learnt."""

    name = "oracle"
    topic = UPDATES

    def work(self, record: Record) -> Outcome:
        request, _ = decode(record.value, UpdateRequest)

        def effect(session: Session) -> None:
            update = session.get_one(UpdateRow, request.id)
            update.state, update.figures = "decided", {"loss_first": 3.0, "loss_last": 0.25}
            session.add(VersionRow(id="v-1", update_id=request.id, state="accepted", manifest={}))
            session.flush()
            report = {"detail": "0 → 9 of 10 probes"}
            session.add(DecisionRow(version_id="v-1", verdict="accept", reason="accepted", report=report))
            session.get_one(DocumentRow, request.documents[0].id).state = "learnt"

        return Outcome(effect, (Outgoing(CANDIDATES, b"{}"),))


@contextmanager
def stages(home: Path) -> Iterator[None]:
    """Both stages at work on a home."""
    transport = EmbeddedTransport(home / "events.db")
    ledger = Ledger(f"sqlite:///{home / 'ledger.db'}")
    ledger.migrate()
    both = [Stage(Taster(), transport, ledger), Stage(Oracle(), transport, ledger)]
    threads = [threading.Thread(target=stage.run) for stage in both]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for stage in both:
            stage.stop()
        for thread in threads:
            thread.join(30)
        ledger.close()


def produce(home: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["produce", *arguments, "--home", str(home)])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_each_outcome_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text('{"id": "new", "text": "New."}\n{"id": "old", "text": "Old."}\n')
    with stages(tmp_path):
        assert produce(tmp_path, str(file), "--wait") == 0
        told = capsys.readouterr().out
        assert "new: learnt (1 questions, conflict 0.50; loss 3.00 → 0.25; 0 → 9 of 10 probes)" in told
        assert "old: known (known; 1 questions, conflict 0.50)" in told
        assert produce(tmp_path, str(file), "--wait") == 0, "what was decided before is told again"


def test_a_dead_letter_is_no_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text('{"id": "bad", "text": "Bad."}\n')
    with stages(tmp_path):
        assert produce(tmp_path, str(file), "--wait") == 1
    assert "bad: dead letter (text: it tastes bad)" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_watched_folder_is_sent_as_it_grows_until_it_is_ended(tmp_path: Path, ending: signal.Signals) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("Old.")
    command = lmt2_command("produce", "--watch", str(folder), "--home", str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("watching")
            assert process.stdout.readline().startswith("sent: ")
            (folder / "a.txt").write_text("Old, and then changed.")
            assert ", supersedes " in process.stdout.readline()
            process.send_signal(ending)
            assert process.wait(30) == 0
        finally:
            process.kill()
    records = EmbeddedTransport(tmp_path / "events.db").read_all(DOCUMENTS)
    first, second = (decode(record.value, Document)[0] for record in records)
    assert (first.text, second.text, second.supersedes) == ("Old.", "Old, and then changed.", first.id)


def test_a_watch_takes_folders_and_does_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert produce(tmp_path, str(tmp_path / "nowhere"), "--watch") == 2
    assert produce(tmp_path, str(tmp_path), "--watch", "--wait") == 2
    assert "nowhere is none" in capsys.readouterr().err


def test_input_that_is_no_document_is_named_and_the_rest_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text('{"id": "old", "text": "Old."}\n{"id": "x", "txt": "misspelt"}\n')
    assert produce(tmp_path, str(file)) == 1
    captured = capsys.readouterr()
    assert captured.out == "sent: 1, refused: 1\n"
    assert f"{file}:2" in captured.err
    assert "txt" in captured.err


def test_waiting_has_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "note.txt"
    file.write_text("Nobody is there to read this.")
    assert produce(tmp_path, str(file), "--wait", "--timeout", "0.1") == 1
    captured = capsys.readouterr()
    assert "undecided" in captured.out
    assert "start `lmt2 up`" in captured.err
