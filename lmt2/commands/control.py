"""`lmt2 rollback`, `pause` and `resume`: what an operator decides. Each is a row in the ledger that others act on."""

from pathlib import Path
from typing import Annotated

import typer

from lmt2.commands.common import ConfigOption, HomeOption, find_site


def rollback(
    version: Annotated[str | None, typer.Argument(help="An accepted one. [default: the present one's parent]")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Serve an earlier version again."""
    from gate import promotion
    from lmt2.ledger import desired_version

    with find_site(home, config).ledger().begin() as session:
        before = desired_version(session)
        row = promotion.rollback(session, version)
    typer.echo(f"rolled back from {before} to {row.version_id}")


def pause(home: HomeOption = None, config: ConfigOption = None) -> None:
    """Hold the learner: documents are still taken in, but no new update begins."""
    _set_paused(home, config, "true")
    typer.echo("paused: the update in hand is finished, no other begins; `lmt2 resume` goes on")


def resume(home: HomeOption = None, config: ConfigOption = None) -> None:
    """Let the learner go on."""
    _set_paused(home, config, "false")
    typer.echo("resumed")


def _set_paused(home: Path | None, config: Path | None, value: str) -> None:
    from lmt2.ledger import ControlRow

    with find_site(home, config).ledger().begin() as session:
        session.merge(ControlRow(name="paused", value=value))
