"""Questions with accepted answers, and how many of them a model answers rightly, by kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lmt2.asking import Answer, ModelName, ask_all
from lmt2.errors import ConfigError
from lmt2.scoring import hit


class Question(BaseModel):
    """A line of a file of questions: `q`, the accepted answers `a` (one or several), and a `kind` to count by."""

    model_config = ConfigDict(frozen=True)

    q: str
    a: tuple[str, ...]
    kind: str = "all"

    @field_validator("a", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Scored:
    """A question, its answer, and whether that is right."""

    question: Question
    answer: Answer
    is_right: bool


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON Lines file.

    Raises:
        ConfigError: the file can't be read, or a line is no question; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    return [_question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def evaluate(
    address: str, model: ModelName, questions: Sequence[Question], on_answer: Callable[[], None] = lambda: None
) -> list[Scored]:
    """Ask all and score each; raises ServingError."""
    answers = ask_all(address, model, [question.q for question in questions], on_answer=on_answer)
    return [Scored(q, answer, hit(answer.text, q.a)) for q, answer in zip(questions, answers, strict=True)]


def by_kind(scored: Sequence[Scored]) -> dict[str, tuple[int, int]]:
    """Right answers and questions of each kind, in the order in which kinds appear."""
    counts: dict[str, tuple[int, int]] = {}
    for one in scored:
        right, all_of_it = counts.get(one.question.kind, (0, 0))
        counts[one.question.kind] = (right + one.is_right, all_of_it + 1)
    return counts


def _question(path: Path, number: int, line: str) -> Question:
    try:
        return Question.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "line"
        raise ConfigError(f"{path}:{number}: {where}: {first['msg']}") from error
