import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lmt2.errors import TransportError
from lmt2.events import CONTENT_TYPE, DOCUMENTS, Document, decode
from lmt2.transport.base import Outgoing
from lmt2.transport.embedded import EmbeddedTransport
from producer.client import DocumentProducer
from producer.documents import Refusal, read_documents


class RecordingProducer:
    def __init__(self, accepts: int = 1000) -> None:
        self.batches: list[list[Outgoing]] = []
        self._accepts = accepts

    def send(self, records: Sequence[Outgoing]) -> None:
        if len(self.batches) == self._accepts:
            raise TransportError("not acknowledged")
        self.batches.append(list(records))

    def close(self) -> None:
        self.batches.append([])


class RecordingTransport(EmbeddedTransport):
    def __init__(self, recording: RecordingProducer) -> None:
        super().__init__(Path("unused"))
        self._recording = recording
        self.topics: list[str] = []

    def create_topics(self, topics: Sequence[str]) -> None:
        self.topics += topics

    def producer(self) -> RecordingProducer:  # type: ignore[override]
        return self._recording


def read(*names: str | Path, stdin: bytes = b"") -> list[Document | Refusal]:
    return list(read_documents([str(name) for name in names], io.BytesIO(stdin)))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_good_lines_are_sent_and_bad_ones_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"id":"1","text":"A"}\n\n{"txt":"B"}\r\nno json\n{"id":"2","text":"C"}')
    path.write_bytes(path.read_bytes() + b'\n{"text":"caf\xe9"}\n{"id":"3","retracted":true}\n')
    found = read(path)
    assert [item.id for item in found if isinstance(item, Document)] == ["1", "2", "3"]
    bad = [str(item) for item in found if isinstance(item, Refusal)]
    assert [message.removeprefix(f"{path}:")[:30] for message in bad] == [
        "3: id: Field required; txt: Ex",
        "4: the record is not JSON: exp",
        "6: the record is not UTF-8: in",
    ]


def test_a_line_may_be_an_envelope(tmp_path: Path) -> None:
    event = {"specversion": "1.0", "id": "e", "source": "s", "type": "lmt2.document.v1", "data": {"text": "A"}}
    (document,) = read(write(tmp_path / "a.jsonl", json.dumps(event)))
    assert isinstance(document, Document)
    assert document.text == "A"


def test_front_matter_fills_the_fields(tmp_path: Path) -> None:
    text = """---
id: mill
title: "The mill: a history"
source: gazette
published_at: 2026-03-01
domain: history
supersedes: old-mill
---
# Heading

Built in 1871.
"""
    assert read(write(tmp_path / "a.md", text)) == [
        Document(
            id="mill",
            title="The mill: a history",
            source="gazette",
            published_at=datetime(2026, 3, 1, tzinfo=UTC),
            domain="history",
            supersedes="old-mill",
            text="# Heading\n\nBuilt in 1871.\n",
        )
    ]


@pytest.mark.parametrize(
    ("text", "title", "body"),
    [
        ("# The mill #\n\nBuilt.", "The mill", "# The mill #\n\nBuilt."),
        ("Built.\n\n## Later\n", "", "Built.\n\n## Later\n"),
        ("---\r\ntitle: T\r\n---\r\nBuilt.\r\n", "T", "Built.\n"),
        ("---\n---\nBuilt.", "", "Built."),
        ("Built.\n\n---\nid: no\n---\n", "", "Built.\n\n---\nid: no\n---\n"),
        ("---\nunclosed", "", "---\nunclosed"),
    ],
)
def test_markdown_without_much_front_matter(tmp_path: Path, text: str, title: str, body: str) -> None:
    (document,) = read(write(tmp_path / "a.md", text))
    assert isinstance(document, Document)
    assert (document.title, document.text) == (title, body)


def test_text_is_taken_as_it_is(tmp_path: Path) -> None:
    (document,) = read(write(tmp_path / "a.txt", "---\ntitle: T\n---\n# H"))
    assert document == Document.model_validate({"text": "---\ntitle: T\n---\n# H"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.md", "---\nsuperseeds: b\n---\nText", "superseeds: Extra inputs are not permitted"),
        ("a.md", "---\nno field\n---\nText", "front matter: 'no field' is no `name: value`"),
        ("a.md", "---\npublished_at: soon\n---\nText", "published_at: "),
        ("a.md", "---\nid: a\n---\n", "text is empty"),
        ("a.txt", " \n", "text is empty"),
        ("a.pdf", "Text", "unknown kind of file: expected .jsonl, .md or .txt"),
    ],
)
def test_a_file_that_is_no_document_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path / name, text)
    (refusal,) = read(path)
    assert isinstance(refusal, Refusal)
    assert refusal.place == str(path)
    assert message in refusal.message


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert read(tmp_path / "a.txt") == [
        Refusal(str(tmp_path / "a.txt"), "not UTF-8: unexpected end of data at byte 3"),
    ]


def test_a_file_that_is_not_there_is_refused_and_the_rest_read(tmp_path: Path) -> None:
    missing, _, document = tmp_path / "missing.txt", None, write(tmp_path / "a.txt", "Text")
    first, second = read(missing, document)
    assert first == Refusal(str(missing), "No such file or directory")
    assert isinstance(second, Document)


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/a.jsonl", "a/.hidden.txt", ".git/c.txt", "a/d.py"):
        write(tmp_path / name, json.dumps({"text": name}))
    texts = [json.loads(item.text)["text"] if item.text[0] == "{" else item.text for item in documents(read(tmp_path))]
    assert texts == ["a/a.jsonl", "a/z.md", "b.txt"]


def documents(items: Sequence[Document | Refusal]) -> list[Document]:
    assert not [item for item in items if isinstance(item, Refusal)]
    return [item for item in items if isinstance(item, Document)]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert [str(item) for item in read(tmp_path)] == [f"{tmp_path}: the folder holds no .jsonl, .md or .txt file"]


def test_standard_input_may_be_lines_or_text() -> None:
    lines = read("-", stdin=b'\n{"id":"1","text":"A"}\n{"id":\n')
    assert [str(item) for item in lines[1:]] == [
        "standard input:3: the record is not JSON: EOF while parsing a value at line 2 column 0"
    ]
    assert documents(lines[:1])[0].id == "1"
    (text,) = documents(read("-", stdin=b"---\nid: mill\n---\nBuilt."))
    assert (text.id, text.text) == ("mill", "Built.")


def test_lines_are_read_while_standard_input_is_still_being_written() -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError(f"waits for {size} bytes")

    first = next(read_documents(["-"], Endless(b'{"id":"1","text":"A"}\n{"id":"2","text":"B"}\n')))
    assert isinstance(first, Document)


def test_documents_are_sent_as_events_in_the_order_given() -> None:
    recording = RecordingProducer()
    sent = [Document(id=f"d-{number}", text=f"Text {number}") for number in range(250)]
    with DocumentProducer(RecordingTransport(recording), source="tests") as producer:
        assert producer.send(iter(sent)) == [document.id for document in sent]
    assert [len(batch) for batch in recording.batches] == [100, 100, 50, 0], "in batches, then closed"
    records = [record for batch in recording.batches for record in batch]
    assert [decode(record.value, Document)[0] for record in records] == sent
    assert {record.topic for record in records} == {DOCUMENTS}
    assert records[0].key == b"d-0"
    assert records[0].headers == {"content-type": CONTENT_TYPE.encode()}
    assert decode(records[0].value, Document)[1].source == "tests"


def test_the_same_document_is_the_same_event_and_a_changed_one_another() -> None:
    recording = RecordingProducer()
    producer = DocumentProducer(RecordingTransport(recording))
    for text in ("A", "A", "B"):
        producer.send([Document(id="d", text=text)])
    first, again, changed = (decode(batch[0].value, Document)[1].id for batch in recording.batches)
    assert first == again != changed


def test_each_retraction_is_an_event_of_its_own() -> None:
    recording = RecordingProducer()
    producer = DocumentProducer(RecordingTransport(recording))
    producer.retract("d")
    producer.retract("d")
    (document, first), (_, second) = (decode(batch[0].value, Document) for batch in recording.batches)
    assert document == Document(id="d", retracted=True)
    assert first.id != second.id
    assert recording.batches[0][0].key == b"d"


def test_what_is_not_acknowledged_is_an_error() -> None:
    producer = DocumentProducer(RecordingTransport(RecordingProducer(accepts=0)))
    with pytest.raises(TransportError, match="not acknowledged"):
        producer.send([Document(id="d", text="A")])


def test_documents_may_be_sent_before_the_pipeline_ever_ran() -> None:
    transport = RecordingTransport(RecordingProducer())
    DocumentProducer(transport)
    assert transport.topics == [DOCUMENTS]


def test_nothing_is_sent_for_no_documents() -> None:
    recording = RecordingProducer()
    assert DocumentProducer(RecordingTransport(recording)).send([]) == []
    assert recording.batches == []
