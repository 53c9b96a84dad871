"""`lmt2 status`, `versions`, `decisions`, `explain`: what is going on, and why."""

from typing import Annotated, Any

import typer

from lmt2.commands.common import (
    ConfigOption,
    HomeOption,
    JsonOption,
    find_site,
    out,
    print_json,
    print_table,
)


def status(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say what runs, what is served, and what became of the documents."""
    from lmt2.commands import overview

    site = find_site(home, config)
    found = overview.status(site.ledger(), site.running)
    if as_json:
        print_json(found)
        return
    running = found["running"]
    out.print(f"running     {running['serving']}, console {running['console']}" if running else "running     no")
    out.print(f"version     {found['version']}")
    out.print(f"learning    {'paused' if found['is_paused'] else 'on'}")
    out.print(f"documents   {_in_words(found['documents'])}")
    out.print(f"updates     {_in_words(found['updates'])}")
    for replica in found["replicas"]:
        error = f"  {replica['error']}" if replica["error"] else ""
        out.print(f"replica     {replica['name']} serves {replica['version']}{error}")


def versions(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List versions of the model, the newest first."""
    from gate import registry

    with find_site(home, config).ledger().begin() as session:
        found = registry.versions(session)
    if as_json:
        print_json(found)
        return
    rows = [[v["id"], _served(v), v["state"], v["parent"], v["shards"], _when(v)] for v in found]
    print_table("versions", ["version", "", "state", "parent", "shards", "made"], rows)


def decisions(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the gate's decisions, the newest first."""
    from gate import registry

    with find_site(home, config).ledger().begin() as session:
        found = registry.decisions(session)
    if as_json:
        print_json(found)
        return
    rows = [[d["version"], d["verdict"], d["reason"], d["detail"], _when(d)] for d in found]
    print_table("decisions", ["version", "verdict", "reason", "detail", "decided"], rows)


def explain(
    what: Annotated[str, typer.Argument(help="A version, or a question that the served model answers.")],
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which documents a version, or the answer to a question, comes from."""
    from lmt2.commands import explanation

    site = find_site(home, config)
    found = explanation.explain(site.settings, site.ledger(), site.serving, what)
    if as_json:
        print_json(found)
    else:
        out.print(explanation.in_words(found))


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"


def _served(version: dict[str, Any]) -> str:
    return "served" if version["is_served"] else ""


def _when(entry: dict[str, Any]) -> str:
    return str(entry["created_at"])[:19].replace("T", " ")
