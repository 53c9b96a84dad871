"""The events that stages exchange, and their wire form.

On the wire an event is a CloudEvents 1.0 envelope in structured JSON. Binary mode, with the envelope in the
record's headers, is taken as well, and so is a bare JSON object with the data's fields, so that a console
producer works. Decoding is strict: an unknown field is an error with the field's name, because a misspelt
`supersedes` must not be dropped in silence.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json

from lmt2.binary_mode import attributes
from lmt2.errors import EventError
from lmt2.scoring import normalise

CONTENT_TYPE = "application/cloudevents+json"
DOCUMENTS, UPDATES, CANDIDATES, DECISIONS = "lmt2.documents", "lmt2.updates", "lmt2.candidates", "lmt2.decisions"
DEAD_LETTERS, QUARANTINE = "lmt2.dead-letters", "lmt2.quarantine"
TOPICS = (DOCUMENTS, UPDATES, CANDIDATES, DECISIONS, DEAD_LETTERS, QUARANTINE)

LessonKind = Literal["direct", "rephrased", "reversed", "composed", "given", "gap"]
Verdict = Literal["accept", "reject", "inconclusive"]


def _in_utc(moment: datetime) -> datetime:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        moment.astimezone(UTC)  # as the ledger will keep it
    except OverflowError as error:
        raise ValueError("in UTC it is not in the years 1 to 9999") from error
    return moment


Moment = Annotated[datetime, AfterValidator(_in_utc)]  # a time without a zone is UTC


class Strict(BaseModel):
    """Unknown fields are refused; instances don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QuestionAnswer(Strict):
    """A ready-made pair that a producer may send along with its document."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


DOCUMENT_NEEDS: dict[str, JsonValue] = {
    "required": [],
    "anyOf": [
        {"required": ["text"], "properties": {"text": {"pattern": "\\S"}}},
        {"required": ["id", "retracted"], "properties": {"retracted": {"const": True}}},
    ],
}


class Document(Strict):
    """What a producer sends: a text to learn, or the retraction of an earlier one. No id: it is made from the text."""

    model_config = ConfigDict(json_schema_extra=DOCUMENT_NEEDS)

    id: str = Field(min_length=1, max_length=256)
    text: str = ""
    title: str = ""
    source: str = ""
    published_at: Moment | None = None
    domain: str = ""
    supersedes: str | None = None
    qa: tuple[QuestionAnswer, ...] = ()
    retracted: bool = False

    @model_validator(mode="before")
    @classmethod
    def _derive_id(cls, data: Any) -> Any:
        if isinstance(data, dict) and "id" not in data and isinstance(data.get("text"), str):
            return {**data, "id": hashlib.sha256(data["text"].encode()).hexdigest()[:16]}
        return data

    @model_validator(mode="after")
    def _has_text(self) -> "Document":
        if not self.retracted and not self.text.strip():
            raise ValueError("text is empty: send the document's text, or retracted: true to withdraw it")
        return self

    @property
    def content_hash(self) -> str:
        """SHA-256 of title and text, for finding the same content under another id."""
        return hashlib.sha256(f"{self.title}\n{self.text}".encode()).hexdigest()


class Said(Strict):
    """An answer, and the document that gave it."""

    document: str
    answer: str


class Lesson(Strict):
    """One question and its answer, taken from a document.

    `fact` names what is taught: lessons of one fact are phrasings of it, and have the same answer. `weight` is KaFT's
    w_i (eq. 2) times the confidence in the lesson; `document` is the id of the document that states the fact,
    `passage` the number of the passage of that document (see `lmt2.study.passages`), `sentence` the one that says it.
    Where later documents changed the answer, `history` has all of them, the first and the present one included; so a
    change can be taken back.
    """

    question: str
    answer: str
    kind: LessonKind
    fact: str = ""
    document: str
    passage: int = Field(default=0, ge=0)
    sentence: str = ""
    weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    history: tuple[Said, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fact_of_answer(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("fact") and isinstance(data.get("answer"), str):
            return {**data, "fact": normalise(data["answer"])}
        return data


class UpdateRequest(Strict):
    """Asks the learner for one micro-update: a shard for these documents, or just the removal of others.

    `replaces` names documents whose present shard gives way to the new one, because a fact was superseded
    or a document retracted. Probes are phrasings that the learner must not train on.
    """

    id: str
    documents: tuple[Document, ...]
    lessons: tuple[Lesson, ...]
    probes: tuple[Lesson, ...]
    replaces: tuple[str, ...] = ()
    reason: str
    event_time: Moment

    @property
    def teaches(self) -> tuple[str, ...]:
        """The ids of its documents."""
        return tuple(document.id for document in self.documents)

    @property
    def retracts(self) -> tuple[str, ...]:
        """Documents whose shard gives way and that are taught no more."""
        return tuple(name for name in self.replaces if name not in self.teaches)


class Candidate(Strict):
    """A trained version that waits for the gate."""

    version: str
    update: str
    parent: str
    event_time: Moment


class Decision(Strict):
    """What the gate decided of a candidate, and why."""

    version: str
    update: str
    verdict: Verdict
    reason: str
    scores: dict[str, float]
    event_time: Moment


class Envelope(BaseModel):
    """CloudEvents 1.0 in structured JSON. Extension attributes are allowed, as the standard says."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"required": ["specversion", "id", "source", "type", "data"]}
    )

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    time: Moment | None = None
    datacontenttype: str = "application/json"
    data: dict[str, Any]


E = TypeVar("E", bound=Strict)
EVENT_TYPES: dict[type[Strict], str] = {
    Document: "lmt2.document.v1",
    UpdateRequest: "lmt2.update.v1",
    Candidate: "lmt2.candidate.v1",
    Decision: "lmt2.decision.v1",
}


def encode(event: Strict, *, id: str, source: str) -> bytes:  # noqa: A002 (CloudEvents calls it so)
    """An event as a CloudEvents envelope."""
    envelope = Envelope(
        id=id,
        source=source,
        type=EVENT_TYPES[type(event)],
        time=datetime.now(UTC),
        data=event.model_dump(mode="json", exclude_defaults=True),
    )
    return envelope.model_dump_json().encode()


def decode(value: bytes, kind: type[E], headers: Mapping[str, bytes] | None = None) -> tuple[E, Envelope]:
    """The event in a record's bytes and headers, with its envelope; a bare object gets an envelope of its own.

    Raises:
        EventError: the bytes are no UTF-8, no JSON, or don't fit; the message names the field.
    """
    try:
        fields = from_json(value.decode("utf-8"), allow_inf_nan=False)
    except UnicodeDecodeError as error:
        raise EventError(f"the record is not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise EventError(f"the record is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise EventError(f"the record is a JSON {type(fields).__name__}, expected an object")
    try:
        in_headers = attributes(headers or {})
        around = {**in_headers, "data": fields} if in_headers else fields
        envelope = Envelope.model_validate(around) if "specversion" in around else None
        if envelope and envelope.type != EVENT_TYPES[kind]:
            raise EventError(f"the event's type is {envelope.type}, expected {EVENT_TYPES[kind]}")
        event = kind.model_validate(envelope.data if envelope else fields)
    except ValidationError as error:
        raise EventError(explain(error)) from error
    if envelope is None:
        identity = str(getattr(event, "id", hashlib.sha256(value).hexdigest()[:16]))
        envelope = Envelope(id=identity, source="bare", type=EVENT_TYPES[kind], data=fields)
    return event, envelope


def explain(error: ValidationError) -> str:
    """What doesn't fit, field by field, in one line."""
    found = error.errors(include_url=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in found)
