"""`lmt2 topics create`, `fetch-models`, `bench` and `demo`."""

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Annotated

import typer

from lmt2.commands.common import ConfigOption, HomeOption, KafkaOption, absolute, find_site
from lmt2.config import default_home
from lmt2.errors import ConfigError
from lmt2.events import TOPICS
from lmt2.models import assets
from lmt2.transport import open_transport

DEMO_DATA = Path(__file__).parents[2] / "examples" / "demo"


def create_topics(home: HomeOption = None, config: ConfigOption = None, kafka: KafkaOption = "") -> None:
    """Make the topics that aren't there, with the configured partitions and replication."""
    open_transport(find_site(home, config, kafka).settings).create_topics(TOPICS)
    typer.echo("\n".join(TOPICS))


def fetch_models() -> None:
    """Fetch the default models into the cache, unless they are there."""
    for asset in assets.ASSETS.values():
        typer.echo(f"{asset.name}: {assets.fetch(asset, typer.echo)}")


def bench(context: typer.Context) -> None:
    """Run a benchmark: its name, then its own options."""
    known = _benchmarks()
    name, *arguments = context.args or [""]
    if name not in known:
        raise ConfigError(f"name a benchmark: {', '.join(known) or 'none is installed'} (each takes --help)")
    sys.argv = [f"lmt2 bench {name}", *arguments]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")


def demo(
    home: HomeOption = None,
    data: Annotated[
        Path, typer.Option("--data", help="docs, questions, unrelated and poison as JSON Lines.")
    ] = DEMO_DATA,
) -> None:
    """Stream sample documents through a fresh pipeline in HOME/demo, and show what the model learnt of them."""
    from lmt2.demo import Demo

    place = (absolute(home) if home else default_home()) / "demo"
    raise typer.Exit(Demo(place, data).run())


def _benchmarks() -> list[str]:
    """The modules of the benchmarks' package that can be run."""
    package = importlib.util.find_spec("benchmarks")
    folders = [Path(place) for place in package.submodule_search_locations or ()] if package else []
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    return [file.stem for file in files if "__main__" in file.read_text(encoding="utf-8")]
