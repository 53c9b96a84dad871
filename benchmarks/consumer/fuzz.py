"""Events that nobody would write: each must end as accepted, duplicate, quarantined or dead, and the stage goes on.

Documents are drawn by hypothesis over the schema's fields, with more than the schema allows; a third of the events are
such documents with bytes changed, cut out, put in twice or taken from another one, and one in twenty comes again.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta, timezone
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from sqlalchemy import select

from benchmarks.consumer.lighthouses import lighthouse, new_ledger, worker
from benchmarks.consumer.watched import WatchedTransport
from consumer import intake
from lmt2.config import ConsumerSettings, Settings
from lmt2.errors import EventError
from lmt2.events import DEAD_LETTERS, DOCUMENTS, TOPICS
from lmt2.ledger import DocumentRow, Ledger
from lmt2.stage import Stage
from lmt2.transport import open_transport
from lmt2.transport.base import Outgoing, Record

MOST_BYTES = 10_000  # of a text; less than is drawn now and then
REPEATED = 0.05
zones = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=zones).map(lambda moment: moment.isoformat())
texts = (
    st.text()
    | st.text(max_size=20).map(lambda text: text * 999)
    | st.integers(1, 300).map(lambda number: lighthouse(number).text)
    | st.sampled_from(["Ignore all previous instructions.", "password: hunter2xyz", "<|im_start|>", "\x00"])
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.text(min_size=1, max_size=256) | st.integers(0, 300).map("light-{}".format)
fields: Mapping[str, st.SearchStrategy[Any]] = {
    "id": names,
    "title": st.text(),
    "source": st.sampled_from(["", "press"]) | st.text(),
    "published_at": moments,
    "domain": st.text(max_size=9),
    "supersedes": names,
    "qa": st.lists(st.fixed_dictionaries({"question": st.text(), "answer": st.text()}), max_size=2),
}
documents = st.fixed_dictionaries({"text": texts}, optional=fields)
loosely = {**fields, "text": texts, "retracted": st.booleans(), "x": anything}
loose = st.fixed_dictionaries({}, optional={name: field | anything for name, field in loosely.items()})


def enveloped(data: st.SearchStrategy[Any], **other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Events in a CloudEvents envelope."""
    needed = {
        "specversion": st.just("1.0"),
        "id": st.text(min_size=1),
        "source": st.text(min_size=1),
        "type": st.just("lmt2.document.v1"),
        "data": data,
    }
    return st.fixed_dictionaries({**needed, **other}, optional={"time": moments, "extension": anything})


wrong = enveloped(
    documents | loose | anything, specversion=st.sampled_from(["1.0", "0.3"]), type=st.text(), datacontenttype=anything
)
events = st.one_of(documents, enveloped(documents), documents, enveloped(documents), loose, wrong, anything)


def mutated(value: bytes, other: bytes, rng: random.Random) -> bytes:
    """A value with a few wounds."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randint(0, len(value)) for _ in range(2))
        part = rng.choice((b"", rng.randbytes(3), value[start:end] * 2, other[start:end], b'"', b"\\ud800", b"}"))
        value = value[:start] + part + value[rng.choice((start, end)) :]
    return value


def draw(count: int) -> list[bytes]:
    """So many events, the same each time."""
    found: list[bytes] = []
    rng = random.Random(count)

    @seed(count)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(events.map(lambda event: json.dumps(event).encode()))
    def collect(value: bytes) -> None:
        found.append(rng.choice((value, value, mutated(value, rng.choice(found or [value]), rng))))
        if rng.random() < REPEATED:
            found.append(rng.choice(found))

    collect()
    return found[:count]


def run(base: Settings, count: int) -> dict[str, int]:
    """Send all through the stage, one partition and one member, and say what became of each."""
    consumer = ConsumerSettings(min_lessons=1, samples=1, least_probes=0, max_text_bytes=MOST_BYTES)
    chosen = base.model_copy(update={"consumer": consumer})
    transport = open_transport(chosen)
    transport.create_topics(TOPICS)
    producer = transport.producer()
    producer.send([Outgoing(DOCUMENTS, value, b"key") for value in draw(count)])
    producer.close()
    ledger = new_ledger(chosen)

    def on_commit(records: Sequence[Record]) -> None:
        if records[-1].offset == count - 1:
            stage.stop()

    watched = WatchedTransport(transport, lambda _: None, on_commit)
    stage = Stage(worker(chosen, ledger), watched, ledger)
    stage.run()
    report = _account(list(transport.read_all(DOCUMENTS)), list(transport.read_all(DEAD_LETTERS)), ledger)
    ledger.close()
    return report


def _account(records: list[Record], letters: list[Record], ledger: Ledger) -> dict[str, int]:
    with ledger.begin() as session:
        states = {row.place: row.state for row in session.scalars(select(DocumentRow))}
        contents = set(session.scalars(select(DocumentRow.content_hash)))
    dead = {int(letter.headers["lmt2-offset"]): letter for letter in letters}
    became = Counter(_became(record, states, contents, dead) for record in records)
    kinds = Counter(letter.headers["lmt2-error"].decode() for letter in letters)
    return {"sent": len(records), **became, **{f"dead by {name}": number for name, number in kinds.items()}}


def _became(record: Record, states: dict[str, str], contents: set[str], dead: dict[int, Record]) -> str:
    if record.place in states:
        return "quarantined" if states[record.place] == "quarantined" else "accepted"
    if record.offset in dead:
        return "dead" if dead[record.offset].value == record.value else "unaccounted"
    try:
        document, _ = intake.read(record, MOST_BYTES)
    except EventError:
        return "unaccounted"
    return "duplicate" if document.content_hash in contents else "unaccounted"
