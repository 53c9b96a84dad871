"""`lmt2 ask` and `lmt2 evaluate`: questions to the serving address."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from lmt2.commands.common import (
    BaseOption,
    ConfigOption,
    HomeOption,
    JsonOption,
    find_site,
    print_json,
    print_table,
)
from lmt2.errors import ConfigError

if TYPE_CHECKING:
    from lmt2.asking import ModelName
    from lmt2.evaluation import Scored


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    base: BaseOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the served model."""
    from lmt2 import asking

    answer = asking.ask(find_site(home, config).serving, _model(base), question)
    if as_json:
        print_json({"answer": answer.text, "version": answer.version})
    else:
        typer.echo(answer.text)


def evaluate(
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS.jsonl", help="Lines with q, a (one or more), kind.")],
    base: BaseOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the served model a file of questions, and score the answers by kind."""
    from lmt2 import evaluation

    asked = evaluation.read_questions(questions)
    if not asked:
        raise ConfigError(f"{questions} holds no question")
    address = find_site(home, config).serving
    with Progress(transient=True, disable=as_json) as progress:
        task = progress.add_task("asking", total=len(asked))
        scored = evaluation.evaluate(address, _model(base), asked, lambda: progress.advance(task))
    if as_json:
        print_json(_report(_model(base), scored))
    else:
        rows = [[kind, right, n, f"{right / n:.0%}"] for kind, (right, n) in _counts(scored).items()]
        print_table(f"answers of {_model(base)}", ["kind", "right", "questions", "share"], [list(r) for r in rows])


def _model(base: bool) -> "ModelName":
    return "base" if base else "lmt2"


def _counts(scored: "Sequence[Scored]") -> dict[str, tuple[int, int]]:
    from lmt2.evaluation import by_kind

    counts = by_kind(scored)
    total = (sum(one.is_right for one in scored), len(scored))
    return counts if len(counts) == 1 else {**counts, "total": total}


def _report(model: "ModelName", scored: "Sequence[Scored]") -> dict[str, Any]:
    from lmt2.evaluation import by_kind

    return {
        "model": model,
        "right": sum(one.is_right for one in scored),
        "questions": len(scored),
        "kinds": {kind: {"right": right, "questions": n} for kind, (right, n) in by_kind(scored).items()},
        "answers": [
            {"q": one.question.q, "kind": one.question.kind, "answer": one.answer.text, "is_right": one.is_right}
            for one in scored
        ],
    }
