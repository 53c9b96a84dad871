import json
import re
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from lmt2.errors import EventError
from lmt2.events import (
    Candidate,
    Decision,
    Document,
    Lesson,
    QuestionAnswer,
    Strict,
    UpdateRequest,
    decode,
    encode,
)
from lmt2.schemas import schemas

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MILL = Document(
    id="mill",
    text="The mill at Arden was built in 1871.",
    title="The mill",
    source="gazette",
    published_at=NOON,
    domain="history",
    supersedes="old-mill",
    qa=(QuestionAnswer(question="When was the mill built?", answer="1871"),),
)
LESSON = Lesson(question="When?", answer="1871", kind="direct", document="mill", weight=0.5)
EVENTS: dict[str, Strict] = {
    "document.v1.json": MILL,
    "update.v1.json": UpdateRequest(
        id="u-1", documents=(MILL,), lessons=(LESSON,), probes=(LESSON,), reason="conflict", event_time=NOON
    ),
    "candidate.v1.json": Candidate(version="v-1", update="u-1", parent="v-0", event_time=NOON),
    "decision.v1.json": Decision(
        version="v-1", update="u-1", verdict="accept", reason="better", scores={"gain": 0.4}, event_time=NOON
    ),
}


def envelope(**changes: Any) -> bytes:
    fields = {"specversion": "1.0", "id": "e-1", "source": "feed", "type": "lmt2.document.v1", "data": {"text": "A."}}
    return json.dumps(fields | changes).encode()


def nested(depth: int) -> bytes:
    return b'{"text": "a", "qa": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_an_event_comes_back_as_it_was_sent(event: Strict) -> None:
    again, around = decode(encode(event, id="e-1", source="feed"), type(event))
    assert again == event
    assert (around.id, around.source) == ("e-1", "feed")
    assert around.time is not None


def test_a_bare_object_is_a_document() -> None:
    document, around = decode(b'{"id": "mill", "text": "The mill.", "title": "T"}', Document)
    assert document == Document(id="mill", text="The mill.", title="T")
    assert (around.id, around.source, around.time) == ("mill", "bare", None)


def test_a_document_without_an_id_gets_the_same_one_from_the_same_text() -> None:
    first, second, other = (
        decode(value, Document)[0] for value in [b'{"text":"A"}', b'{"text": "A"}', b'{"text":"B"}']
    )
    assert first.id == second.id != other.id
    assert decode(envelope(data={"text": "A"}), Document)[0].id == first.id


def test_an_envelope_may_have_extension_attributes() -> None:
    document, around = decode(envelope(traceparent="00-1", datacontenttype="application/json"), Document)
    assert document.text == "A."
    assert around.model_extra == {"traceparent": "00-1"}


def test_a_retraction_needs_no_text() -> None:
    document, _ = decode(b'{"id": "mill", "retracted": true}', Document)
    assert document.retracted


@pytest.mark.parametrize(("text", "hour"), [("2026-03-01T12:00:00", 12), ("2026-03-01T12:00:00+02:00", 10)])
def test_a_time_without_a_zone_is_utc(text: str, hour: int) -> None:
    document, _ = decode(json.dumps({"text": "A", "published_at": text}).encode(), Document)
    assert document.published_at == datetime(2026, 3, 1, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "not JSON"),
        (b"no json", "not JSON"),
        (b'{"text": "cut off', "not JSON"),
        (b"\xff\xfe", "not UTF-8: invalid start byte at byte 0"),
        (b'{"text": "caf\xe9"}', "not UTF-8"),
        (b"[]", "a JSON list, expected an object"),
        (b'"text"', "a JSON str, expected an object"),
        (b"null", "a JSON NoneType, expected an object"),
        (b'{"text": NaN}', "not JSON: expected value at line 1 column 10"),
        (b'{"text": "a", "x": -Infinity}', "not JSON: invalid number at line 1 column 21"),
        (b'{"text": "a", "superseeds": "b"}', "superseeds: Extra inputs are not permitted"),
        (b'{"text": ""}', "text is empty"),
        (b'{"text": " \\n\\t"}', "text is empty"),
        (b'{"id": "mill"}', "text is empty"),
        (b"{}", "id: Field required"),
        (b'{"id": "", "text": "a"}', "id: String should have at least 1 character"),
        (b'{"text": 1}', "text: Input should be a valid string"),
        (b'{"text": "half a pair \\ud800"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": "a", "published_at": "soon"}', "published_at: "),
        (b'{"text": "a", "published_at": "0001-01-01T00:00:00+10:00"}', "published_at: "),
        (envelope(time="9999-12-31T23:59:59-01:00"), "time: "),
        (b'{"text": "a", "qa": [{"question": "q"}]}', "qa.0.answer: Field required"),
        (json.dumps({"id": "x" * 257, "text": "a"}).encode(), "id: String should have at most 256 characters"),
        (b"1" * 5000, "not JSON"),
        (envelope(type="lmt2.update.v1"), "type is lmt2.update.v1, expected lmt2.document.v1"),
        (envelope(specversion="0.3"), "specversion: "),
        (envelope(data=["text"]), "data: "),
        (envelope(data={"text": "a", "x": 1}), "x: Extra inputs"),
        (envelope(id=""), "id: "),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_reason(value: bytes, message: str) -> None:
    with pytest.raises(EventError, match=re.escape(message)):
        decode(value, Document)


@pytest.mark.parametrize("weight", ["-0.1", "1e999", "null"])
def test_a_lesson_has_a_finite_weight(weight: str) -> None:
    fields = '{"question": "q", "answer": "a", "kind": "direct", "document": "d", "weight": %s}'
    with pytest.raises(EventError, match=r"lessons\.0\.weight"):
        decode(f'{{"id": "u", "lessons": [{fields % weight}]}}'.encode(), UpdateRequest)


@pytest.mark.parametrize("depth", [10, 100, 200, 500, *range(900, 1000, 5), 10_000, 1_000_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(EventError):
        decode(nested(depth), Document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from([*Document.model_fields, "specversion", "type", "data", "unknown"])
records = st.one_of(
    st.binary(),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(field_names, json_values).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(field_names, json_values).map(lambda value: envelope(data=value)),
    st.dictionaries(field_names, json_values).map(lambda value: envelope(**value)),
    st.tuples(st.binary(max_size=5), st.integers(0, 120)).map(
        lambda cut: envelope()[: cut[1]] + cut[0] + envelope()[cut[1] :]
    ),
)


@given(records)
def test_any_bytes_are_a_document_or_an_event_error(value: bytes) -> None:
    try:
        document, around = decode(value, Document)
    except EventError:
        return
    assert decode(encode(document, id=around.id, source=around.source), Document)[0] == document
    assert len(document.content_hash) == 64


@pytest.mark.parametrize("name", schemas())
def test_published_schemas_are_up_to_date(name: str) -> None:
    published = json.loads(files("lmt2.schemas").joinpath(name).read_text(encoding="utf-8"))
    assert published == schemas()[name], "run `python -m lmt2.schemas`"
    Draft202012Validator.check_schema(published)


@pytest.mark.parametrize("name", EVENTS)
def test_events_on_the_wire_fit_the_published_schemas(name: str) -> None:
    wire = json.loads(encode(EVENTS[name], id="e-1", source="feed"))
    Draft202012Validator(schemas()["cloudevent.v1.json"]).validate(wire)
    Draft202012Validator(schemas()[name]).validate(wire["data"])


@given(st.dictionaries(field_names, json_values))
def test_what_is_decoded_fits_the_schema_of_documents(fields: dict[str, Any]) -> None:
    try:
        document, _ = decode(json.dumps(fields).encode(), Document)
    except EventError:
        return
    Draft202012Validator(schemas()["document.v1.json"]).validate(document.model_dump(mode="json"))


@pytest.mark.parametrize(
    "data",
    [{}, {"text": " "}, {"id": "a"}, {"id": "a", "retracted": False}, {"retracted": True}, {"text": "a", "x": 1}],
)
def test_what_is_refused_does_not_fit_the_schema_of_documents(data: dict[str, Any]) -> None:
    assert not Draft202012Validator(schemas()["document.v1.json"]).is_valid(data)
    with pytest.raises(EventError):
        decode(json.dumps(data).encode(), Document)
