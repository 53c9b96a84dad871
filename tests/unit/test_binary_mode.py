"""CloudEvents in a record's headers; the official SDK is the producer that isn't ours."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from lmt2.errors import EventError
from lmt2.events import Document, UpdateRequest, decode

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA = {"id": "mill", "text": "The mill at Ardèn was built in 1871.", "published_at": "2026-03-01T12:00:00Z"}
HEADERS = {"ce_specversion": b"1.0", "ce_id": b"e-1", "ce_source": b"press", "ce_type": b"lmt2.document.v1"}
MILL = b'{"id": "mill", "text": "The mill."}'


@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8", "text/json"])
def test_what_the_official_sdk_writes_is_read(write: Callable[[CloudEvent], KafkaMessage], content_type: Any) -> None:
    attributes = {"id": "e-1", "source": "press", "type": "lmt2.document.v1", "time": NOON, "traceparent": "00-1"}
    message = write(CloudEvent(attributes | ({"datacontenttype": content_type} if content_type else {}), DATA))
    document, around = decode(message.value, Document, message.headers)
    assert document == Document.model_validate(DATA)
    assert (around.id, around.source, around.time) == ("e-1", "press", NOON)
    assert around.model_extra == {"traceparent": "00-1"}


def test_a_record_that_is_a_whole_event_is_read_from_its_value() -> None:
    message = to_structured_event(CloudEvent({"id": "e-1", "source": "press", "type": "lmt2.document.v1"}, DATA))
    _, around = decode(message.value, Document, {**message.headers, "ce_id": b"another", "ce_extra": b"\xff"})
    assert around.id == "e-1"


def test_other_headers_make_no_event() -> None:
    headers = {"content-type": b"text/plain; \xff", "ce-id": b"e-1", "trace": b"\xff"}
    assert decode(MILL, Document, headers)[1].source == "bare"


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        (MILL, {"ce_specversion": b"0.3"}, "specversion: "),
        (MILL, {"ce_specversion": None}, "specversion: "),
        (MILL, {"ce_id": None}, "id: Field required"),
        (MILL, {"ce_id": b""}, "id: "),
        (MILL, {"ce_source": None}, "source: Field required"),
        (MILL, {"ce_type": b"lmt2.update.v1"}, "type is lmt2.update.v1, expected lmt2.document.v1"),
        (MILL, {"ce_time": b"soon"}, "time: "),
        (MILL, {"ce_subject": b"\xff"}, "the header ce_subject is not UTF-8: invalid start byte at byte 0"),
        (MILL, {"content-type": b"application/xml"}, "content-type: application/xml can't be read"),
        (MILL, {"content-type": b"\xff"}, "the header content-type is not UTF-8"),
        (b'{"text": "a", "superseeds": "b"}', {}, "superseeds: Extra inputs are not permitted"),
        (b'{"text": "a"', {}, "not JSON"),
        (b"", {}, "not JSON"),
        (b"[]", {}, "a JSON list, expected an object"),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_reason(
    value: bytes, changes: dict[str, bytes | None], message: str
) -> None:
    headers = {name: text for name, text in (HEADERS | changes).items() if text is not None}
    with pytest.raises(EventError, match=re.escape(message)):
        decode(value, Document, headers)


def test_requests_may_come_so_too() -> None:
    with pytest.raises(EventError, match=r"expected lmt2\.update\.v1"):
        decode(MILL, UpdateRequest, HEADERS)


header_names = st.sampled_from([*HEADERS, "ce_time", "ce_data", "content-type"]) | st.text(max_size=8)


@given(st.binary() | st.just(MILL), st.dictionaries(header_names, st.binary(max_size=12)))
def test_any_headers_are_an_event_or_an_event_error(value: bytes, headers: dict[str, bytes]) -> None:
    for given_headers in (headers, HEADERS | headers):
        try:
            document, _ = decode(value, Document, given_headers)
        except EventError:
            continue
        assert document.id
