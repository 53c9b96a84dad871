"""What commands share: the options that all of them take, and finding the LMT² that they are about."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lmt2 import running
from lmt2.config import Settings, default_home, load
from lmt2.errors import ConfigError
from lmt2.running import Running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmt2.ledger import Ledger
    from lmt2.transport.base import Outgoing, Record, Transport

HomeOption = Annotated[Path | None, typer.Option("--home", help="State of an embedded run. [default: $LMT2_HOME]")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file. [default: HOME/lmt2.toml]")]
KafkaOption = Annotated[str, typer.Option("--kafka", metavar="HOST:PORT", help="Kafka instead of the embedded log.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BaseOption = Annotated[bool, typer.Option("--base", help="Ask the untouched model.")]

OURS = "lmt2-"  # begins the headers that a record was given here

out = Console(highlight=False, soft_wrap=True, markup=False)  # what others wrote is shown as it is


@dataclass(frozen=True)
class Site:
    """The settings that a command works with, and the process that runs with them, if one does."""

    settings: Settings
    running: Running | None

    @property
    def serving(self) -> str:
        """The serving address: the running one's, else the configured one."""
        if self.running:
            return self.running.serving
        return f"http://{self.settings.serving.host}:{self.settings.serving.port}"

    def ledger(self) -> "Ledger":
        """The ledger of what ran here.

        Raises:
            ConfigError: nothing did.
        """
        from lmt2.ledger import Ledger

        url = self.settings.ledger_url
        if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
            raise ConfigError(f"nothing ran in {self.settings.home} yet: start `lmt2 up`, or name another --home")
        return Ledger(url)


def find_site(home: Path | None, config: Path | None = None, kafka: str = "") -> Site:
    """Settings as the process that runs in this home has them, or as files and environment have them."""
    folder = absolute(home) if home else default_home()
    found = running.find(folder)
    settings = load(folder, config or (found.config if found else None))
    bootstrap = kafka or (found.kafka if found else settings.kafka.bootstrap)
    return Site(override(settings, "kafka", bootstrap=bootstrap), found)


def override(settings: Settings, section: str, **values: Any) -> Settings:
    """The settings with some keys of one section replaced."""
    changed = getattr(settings, section).model_copy(update=values)
    return settings.model_copy(update={section: changed})


def absolute(path: Path) -> Path:
    """The path from the root, `~` resolved."""
    return path.expanduser().absolute()


def send(transport: "Transport", records: "Sequence[Outgoing]") -> None:
    """Send records and let go of the connection."""
    producer = transport.producer()
    try:
        producer.send(records)
    finally:
        producer.close()


def own_headers(record: "Record") -> dict[str, bytes]:
    """The headers that a dead letter, or a record in quarantine, had before."""
    return {name: value for name, value in record.headers.items() if not name.startswith(OURS)}


def print_json(value: Any) -> None:
    """Print a value for machines."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print rows for people."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table)
