"""Whether what is written can be read by those who know nothing of us but the published schemas."""

import json
from importlib.resources import files

from jsonschema import Draft202012Validator


def assert_published(value: bytes) -> None:
    """The bytes are a CloudEvent whose data fits the schema that is named like its type."""
    event = json.loads(value)
    _schema("cloudevent.v1").validate(event)
    _schema(event["type"].removeprefix("lmt2.")).validate(event["data"])


def _schema(name: str) -> Draft202012Validator:
    schema = json.loads(files("lmt2.schemas").joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema)
