"""The command line: `lmt2 COMMAND`. An error that was foreseen is one line on standard error and a non-zero exit."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from lmt2 import __version__
from lmt2.commands import control, letters, look, produce, quarantine, run, talk, upkeep
from lmt2.errors import ConfigError, LMT2Error
from lmt2.supervisor import left_behind

FAILED, MISUSED = 1, 2

app = typer.Typer(
    name="lmt2",
    help="Keeps a served language model up to date from a stream of documents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS: tuple[Callable[..., None], ...] = (
    run.up,
    produce.produce,
    produce.retract,
    talk.ask,
    talk.evaluate,
    look.status,
    look.versions,
    look.decisions,
    look.explain,
    control.rollback,
    control.pause,
    control.resume,
    upkeep.demo,
    run.consumer,
    run.learner,
    run.gate,
    run.serve,
)
for command in COMMANDS:
    app.command()(command)
app.command(name="fetch-models")(upkeep.fetch_models)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(upkeep.bench)

topics = typer.Typer(help="The topics that stages meet on.", no_args_is_help=True)
topics.command(name="create")(upkeep.create_topics)
app.add_typer(topics, name="topics")

dead_letters = typer.Typer(help="Records that could not be used.", no_args_is_help=True)
dead_letters.command(name="list")(letters.show)
dead_letters.command(name="replay")(letters.replay)
app.add_typer(dead_letters, name="dead-letters")

quarantined = typer.Typer(help="Documents that were kept out.", no_args_is_help=True)
quarantined.command(name="list")(quarantine.show)
quarantined.command(name="release")(quarantine.release)
app.add_typer(quarantined, name="quarantine")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"lmt2 {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keeps a served language model up to date from a stream of documents."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed, 2 wrong usage or configuration."""
    code = _run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.is_alive() for thread in left_behind):
        os._exit(code)  # the interpreter would wait for their work, of which nothing is committed
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(None if arguments is None else list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except LMT2Error as error:
        typer.echo(f"lmt2: {error}", err=True)
        return MISUSED if isinstance(error, ConfigError) else FAILED
    return 0
