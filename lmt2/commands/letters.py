"""`lmt2 dead-letters`: what could not be used, and sending it again once the reason is gone."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmt2.commands.common import (
    OURS,
    ConfigOption,
    HomeOption,
    JsonOption,
    KafkaOption,
    Site,
    find_site,
    own_headers,
    print_json,
    print_table,
    send,
)
from lmt2.errors import ConfigError
from lmt2.events import DEAD_LETTERS, TOPICS

if TYPE_CHECKING:
    from lmt2.transport.base import Record

SHOWN = 300  # characters of a dead letter's bytes


def show(
    home: HomeOption = None, config: ConfigOption = None, kafka: KafkaOption = "", as_json: JsonOption = False
) -> None:
    """List the records that could not be used, and why."""
    letters = [_in_fields(letter) for letter in _letters(find_site(home, config, kafka))]
    if as_json:
        print_json(letters)
        return
    rows = [[x["place"], x["error"], x["message"], x["value"][:60]] for x in letters]
    print_table(f"{len(letters)} dead letters", ["record", "error", "message", "begins with"], rows)


def replay(
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[RECORD]…", help="As `list` shows them. [default: all]")
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    kafka: KafkaOption = "",
) -> None:
    """Send records again as they were: same bytes, same key, same id, to the topic that they came from.

    What was used meanwhile is dropped as a repeat; what still can't be used comes back as a dead letter.
    """
    from lmt2.transport import open_transport
    from lmt2.transport.base import Outgoing

    site = find_site(home, config, kafka)
    letters = {_place(letter): letter for letter in _letters(site)}
    if unknown := [place for place in places or () if place not in letters]:
        raise ConfigError(f"no dead letter came from {', '.join(unknown)}: see `lmt2 dead-letters list`")
    again = [
        Outgoing(_header(letter, "topic"), letter.value, letter.key, own_headers(letter))
        for place, letter in letters.items()
        if (not places or place in places) and _header(letter, "topic") in TOPICS
    ]
    send(open_transport(site.settings), again)
    typer.echo(f"sent again: {len(again)}")


def _letters(site: Site) -> "list[Record]":
    """The dead letters, the oldest first."""
    from lmt2.transport import open_transport

    if not site.settings.kafka.bootstrap:
        site.ledger()  # says so where nothing ran
    return list(open_transport(site.settings).read_all(DEAD_LETTERS))


def _header(letter: "Record", name: str) -> str:
    return letter.headers[f"{OURS}{name}"].decode(errors="replace")


def _place(letter: "Record") -> str:
    """Where the record stood that couldn't be used."""
    return f"{_header(letter, 'topic')}[{_header(letter, 'partition')}]@{_header(letter, 'offset')}"


def _in_fields(letter: "Record") -> dict[str, Any]:
    shown = {name: _header(letter, name) for name in ("time", "error", "message", "attempts")}
    return {"place": _place(letter), **shown, "value": letter.value[:SHOWN].decode(errors="replace")}
