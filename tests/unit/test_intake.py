"""Intake: what is no document, what is too much, and what was there before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer import intake
from lmt2.config import ConsumerSettings
from lmt2.errors import EventError
from lmt2.events import DOCUMENTS, Document, Envelope, encode
from lmt2.ledger import DocumentRow, Ledger
from lmt2.transport.base import Record
from memory.versions import untouched
from tests.support.gate import WHEN, new_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = new_ledger(tmp_path, untouched("base"))
    yield ledger
    ledger.close()


def bare(**fields: Any) -> Record:
    return Record(DOCUMENTS, 0, 0, json.dumps(fields).encode())


def enveloped(event: str, **fields: Any) -> Record:
    return Record(DOCUMENTS, 0, 0, encode(Document(**fields), id=event, source="press"))


def take(ledger: Ledger, record: Record) -> bool:
    """Whether a record was a repeat; it is kept if not."""
    document, envelope = intake.read(record, 1000)
    with ledger.begin() as session:
        repeats = intake.is_repeat(session, document, envelope, intake.returning(ConsumerSettings()))
        if not repeats:
            session.add(_row(document, envelope))
    return repeats


def _row(document: Document, envelope: Envelope) -> DocumentRow:
    return intake.new_row(document, envelope, place="", state="requested", event_time=WHEN)


def test_size_is_counted_in_bytes() -> None:
    document, _ = intake.read(bare(id="a", text="é" * 500), 1000)
    assert document.id == "a"
    with pytest.raises(EventError, match=r"text: 1002 bytes, at most 1000.*split"):
        intake.read(bare(id="a", text="é" * 501), 1000)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b'{"id": "a", "text": ', "JSON"),
        (b'["a"]', "list"),
        (b'{"id": "a", "text": "b", "superseeds": "c"}', "superseeds"),
        (b'{"id": "a", "text": "  "}', "empty"),
    ],
)
def test_what_is_no_document_is_refused_with_the_reason(value: bytes, reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        intake.read(Record(DOCUMENTS, 0, 0, value), 1000)


def test_the_same_event_again_is_a_repeat(ledger: Ledger) -> None:
    assert not take(ledger, enveloped("1", id="a", text="Vell has a lamp."))
    assert take(ledger, enveloped("1", id="a", text="Vell has a lamp."))


def test_the_same_text_under_another_name_is_a_repeat(ledger: Ledger) -> None:
    assert not take(ledger, enveloped("1", id="a", text="Vell has a lamp."))
    assert take(ledger, enveloped("2", id="b", text="Vell has a lamp."))
    assert take(ledger, bare(text="Vell has a lamp."))


@pytest.mark.parametrize(
    "other",
    [
        enveloped("2", id="a", text="Vell has two lamps."),
        enveloped("1", id="b", text="Vell has two lamps."),
        bare(id="a", text="Vell has two lamps."),
    ],
)
def test_other_text_under_a_taken_name_is_refused_and_not_dropped_in_silence(ledger: Ledger, other: Record) -> None:
    assert not take(ledger, enveloped("1", id="a", text="Vell has a lamp."))
    with pytest.raises(EventError, match="taken by another text"):
        take(ledger, other)


def test_a_bare_records_text_may_not_change_under_its_id(ledger: Ledger) -> None:
    assert not take(ledger, bare(id="a", text="Vell has a lamp."))
    assert take(ledger, bare(id="a", text="Vell has a lamp."))
    with pytest.raises(EventError, match="a is taken by another text"):
        take(ledger, bare(id="a", text="Vell has two lamps."))


def test_bare_texts_without_an_id_are_told_apart_by_their_content(ledger: Ledger) -> None:
    assert not take(ledger, bare(text="Vell has a lamp."))
    assert not take(ledger, bare(text="Vell has two lamps."))
    assert take(ledger, bare(text="Vell has two lamps."))
