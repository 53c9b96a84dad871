"""A folder of facts: documents in stream order, questions about them, unrelated questions.

The folder holds `docs.jsonl` (fields of a document event), `questions.jsonl` (`doc`, `q`, `a`, `kind`, and
`superseded_by` with `old_a` where a later document changes the answer) and, where damage is measured,
`unrelated.jsonl` (`q`, `a`, `kind`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmt2.events import Document


@dataclass(frozen=True)
class Question:
    """A question with its accepted answers; `old` ones were right until `superseded_by` was learnt."""

    text: str
    answers: tuple[str, ...]
    kind: str
    document: str = ""
    superseded_by: str = ""
    old: tuple[str, ...] = ()

    def accepted(self, seen: set[str]) -> tuple[str, ...]:
        """The answers that are right once the documents `seen` have been streamed."""
        return self.old if self.superseded_by and self.superseded_by not in seen else self.answers


@dataclass(frozen=True)
class Facts:
    """A stream and what is asked about it."""

    documents: tuple[Document, ...]
    questions: tuple[Question, ...]
    unrelated: tuple[Question, ...]


def read(folder: Path, first: int | None = None) -> Facts:
    """The first documents of a folder, the questions about them, and all unrelated ones."""
    chosen = documents(folder)[:first]
    names = {document.id for document in chosen}
    questions = tuple(_question(row) for row in rows(folder / "questions.jsonl") if row["doc"] in names)
    return Facts(chosen, questions, tuple(_question(row) for row in rows(folder / "unrelated.jsonl")))


def documents(folder: Path) -> tuple[Document, ...]:
    """All documents of a folder, in stream order."""
    found = rows(folder / "docs.jsonl")
    return tuple(Document.model_validate({k: v for k, v in row.items() if v is not None}) for row in found)


def _question(row: dict[str, Any]) -> Question:
    return Question(
        text=row["q"],
        answers=tuple(row["a"]),
        kind=row["kind"],
        document=row.get("doc", ""),
        superseded_by=row.get("superseded_by", ""),
        old=tuple(row.get("old_a", ())),
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file; only `unrelated.jsonl` may be missing."""
    if not path.exists() and path.name == "unrelated.jsonl":
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
