"""General questions: what a small language model may know already, and should know still after it has learnt.

The learner rehearses some of them, the gate uses others as anchors, and the router's threshold is set by them.
`near` ones ask about real things in the manner of the documents that arrive: local news, release notes, museums,
shipping; `general` ones ask about anything else.
"""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Literal


@dataclass(frozen=True)
class GeneralQuestion:
    """A question `q` of common knowledge, with the short answers `a` that are accepted."""

    q: str
    a: tuple[str, ...]
    kind: Literal["general", "near"]


def general() -> list[GeneralQuestion]:
    """All general questions, kinds and subjects mixed: any stretch or every second one is a fair sample.

    >>> questions = general()
    >>> len(questions), sum(question.kind == "near" for question in questions)
    (240, 60)
    """
    text = (resources.files(__name__) / "general.jsonl").read_text(encoding="utf-8")
    return [GeneralQuestion(row["q"], tuple(row["a"]), row["kind"]) for row in map(json.loads, text.splitlines())]
