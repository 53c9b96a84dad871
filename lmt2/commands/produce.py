"""`lmt2 produce` and `retract`: documents into the stream, or back out of it; `--wait` goes along to the end."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from lmt2.commands.common import ConfigOption, HomeOption, KafkaOption, Site, find_site
from lmt2.errors import ConfigError

if TYPE_CHECKING:
    from lmt2.events import Document
    from lmt2.follow import Progress as Way
    from lmt2.transport.base import Transport

FilesArgument = Annotated[
    list[str], typer.Argument(metavar="FILE…", help="JSON Lines, Markdown, text or a folder; - is standard input.")
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow each document to its decision.")]
TimeoutOption = Annotated[float | None, typer.Option(min=0, help="Seconds to wait. [default: as long as it takes]")]


def produce(
    files: FilesArgument,
    wait: WaitOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Folders: send what is there, then new and changed files, until Ctrl-C.")
    ] = False,
    timeout: TimeoutOption = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    kafka: KafkaOption = "",
) -> None:
    """Send documents. With --wait the exit status is 0 only if every one was decided on.

    With --watch a changed file is a new document that supersedes the earlier one. A deleted file is left alone: see
    `lmt2 retract`.
    """
    from lmt2.transport import open_transport
    from producer.client import DocumentProducer

    site = find_site(home, config, kafka)
    transport = open_transport(site.settings)
    if watch:
        from lmt2.commands.watching import send_what_comes

        if wait:
            raise ConfigError("--watch has no end to --wait for: `lmt2 status` says what became of the documents")
        return send_what_comes(transport, files)
    documents, refused = _read(files)
    started = time.time()
    with DocumentProducer(transport) as producer:
        producer.send(documents)
    typer.echo(f"sent: {len(documents)}" + (f", refused: {refused}" if refused else ""))
    is_decided = not wait or all(way.is_decided for way in _wait(site, transport, documents, started, timeout))
    raise typer.Exit(0 if is_decided and not refused else 1)


def retract(
    names: Annotated[list[str], typer.Argument(metavar="DOCUMENT…", help="Ids, as `lmt2 explain` shows them.")],
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    kafka: KafkaOption = "",
) -> None:
    """Take documents back: nothing that is served teaches them any more, and what they changed is as it was.

    With --wait the exit status is 0 only if every one is retracted.
    """
    from lmt2.events import Document
    from lmt2.transport import open_transport
    from producer.client import DocumentProducer

    site = find_site(home, config, kafka)
    transport = open_transport(site.settings)
    started = time.time()
    with DocumentProducer(transport) as producer:
        for name in names:
            producer.retract(name)
    typer.echo(f"sent: {len(names)}")
    if wait:
        retractions = [Document(id=name, retracted=True) for name in names]
        ways = _wait(site, transport, retractions, started, timeout)
        raise typer.Exit(0 if all(way.state == "retracted" for way in ways) else 1)


def _read(files: list[str]) -> "tuple[list[Document], int]":
    """The documents, and how many pieces of input were none; those are named on standard error."""
    from producer.documents import Refusal, read_documents

    documents, refused = [], 0
    for item in read_documents(files):
        if isinstance(item, Refusal):
            typer.echo(f"lmt2: {item}", err=True)
            refused += 1
        else:
            documents.append(item)
    return documents, refused


def _wait(
    site: Site, transport: "Transport", documents: "list[Document]", started: float, timeout: float | None
) -> "list[Way]":
    """What became of each."""
    from lmt2.commands.following import Following, outcomes
    from lmt2.ledger import Ledger

    if not site.running and not site.settings.kafka.bootstrap:
        typer.echo(f"nothing runs in {site.settings.home} that would decide on them: start `lmt2 up`", err=True)
    ledger = Ledger(site.settings.ledger_url)
    ledger.migrate()
    following = Following(ledger, transport, documents, started)
    ways = following.until_decided(float("inf") if timeout is None else timeout)
    typer.echo("\n".join(outcomes(ways)))
    return ways
