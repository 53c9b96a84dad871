"""JSON Schemas of the events, for producers and readers in other languages.

Each file next to this one describes an event's `data`; `cloudevent.v1.json` describes the envelope around it.
They are made from the models in lmt2/events.py: run `python -m lmt2.schemas` after a change there.
"""

from typing import Any

from pydantic import BaseModel

from lmt2.events import EVENT_TYPES, Envelope

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas by file name."""
    models: dict[str, type[BaseModel]] = {name.removeprefix("lmt2."): model for model, name in EVENT_TYPES.items()}
    models["cloudevent.v1"] = Envelope
    return {f"{name}.json": {"$schema": DIALECT, **model.model_json_schema()} for name, model in models.items()}
