"""The reference of all settings, written from their models.

python -m lmt2.reference > docs/configuration.md
"""

from typing import get_args, get_origin

from pydantic.fields import FieldInfo

from lmt2.config import Section, Settings

INTRODUCTION = """# Configuration

<!-- Written by `python -m lmt2.reference > docs/configuration.md`; a test holds it to the code. -->

Every setting has a default in the code. A TOML file changes it: the one named by `--config` or `LMT2_CONFIG`, else
`HOME/lmt2.toml` if there is one. An environment variable changes it again: `[gate] margin` is `LMT2_GATE_MARGIN`.
Lists are written `[16, 20]` in TOML and `16,20` in a variable. A key that doesn't exist, in either, is refused at
start, and so is a value that doesn't fit.

Not settings of a section: `LMT2_HOME` (or `--home`) is the folder of an embedded run's state, `.lmt2` in your home
folder by default, and `LMT2_CACHE` the one where models are kept.

```toml
[serving]
port = 8080

[kafka]
bootstrap = "broker:9092"
```
"""
HEADER = "| key | variable | type | default | meaning |\n|---|---|---|---|---|"


def reference() -> str:
    """The reference as Markdown."""
    sections = [
        _section(name, field.annotation)
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    ]
    return "\n".join([INTRODUCTION, *sections])


def _section(name: str, model: type[Section]) -> str:
    rows = [_row(name, key, field) for key, field in model.model_fields.items()]
    return "\n".join([f"## [{name}]", "", f"{model.__doc__}", "", HEADER, *rows, ""])


def _row(section: str, key: str, field: FieldInfo) -> str:
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    shown = "empty" if default in ("", []) else f"`{default}`"
    limits = ", ".join(filter(None, map(_limit, field.metadata)))
    text = "; ".join(part for part in (field.description, limits) if part)
    variable = f"LMT2_{section}_{key}".upper()
    return f"| `{key}` | `{variable}` | {_type(field.annotation)} | {shown} | {text} |"


def _limit(constraint: object) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(f"{sign} {getattr(constraint, name)}" for name, sign in signs.items() if hasattr(constraint, name))


def _type(annotation: object) -> str:
    if get_origin(annotation) is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    if choices := get_args(annotation):
        return " or ".join(f"`{choice}`" for choice in choices)
    names = {str: "text", int: "integer", float: "number", bool: "`True` or `False`"}
    return names.get(annotation, str(annotation)) if isinstance(annotation, type) else str(annotation)


if __name__ == "__main__":
    print(reference(), end="")
