"""Validation of custom resources against the schema in their vendored definition."""

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[1] / "integration" / "crds"


def custom_schemas() -> dict[tuple[str, str], Any]:
    """JSON Schemas by apiVersion and kind."""
    schemas = {}
    for file in FOLDER.glob("*.yaml"):
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
        for version in spec["versions"]:
            name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            schemas[name] = _closed(version["schema"]["openAPIV3Schema"])
    return schemas


def validate_custom(resource: dict[str, Any], schema: Any) -> None:
    """Raise jsonschema's ValidationError where the resource doesn't fit."""
    Draft202012Validator(schema).validate({**resource, "metadata": {}})  # metadata's schema is not in a definition


def _closed(schema: Any) -> Any:
    """The schema with unknown fields forbidden: a cluster drops them in silence, so a misspelt one must fail here."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    return closed
