"""`lmt2 produce --watch`: what comes into folders goes into the stream, until somebody ends it."""

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from lmt2.errors import ConfigError
from lmt2.events import Document
from lmt2.transport.base import Transport
from producer.client import DocumentProducer
from producer.documents import Refusal
from producer.watch import Watch

LOOK_SECONDS = 0.5


def send_what_comes(transport: Transport, folders: Sequence[str]) -> None:
    """Send documents as they come, until SIGINT or SIGTERM.

    Raises:
        ConfigError: a name is not a folder's.
        TransportError: a document wasn't acknowledged; what was sent before is dropped as a repeat after a restart.
    """
    if others := [name for name in folders if not Path(name).is_dir()]:
        raise ConfigError(f"--watch takes folders: {', '.join(others)} is none")
    is_over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: is_over.set())
    watch = Watch([Path(name) for name in folders])
    with DocumentProducer(transport) as producer:
        typer.echo(f"watching {', '.join(folders)}; Ctrl-C ends it")
        while not is_over.wait(LOOK_SECONDS):
            for item in watch.look(time.monotonic()):
                _send(producer, item)


def _send(producer: DocumentProducer, item: Document | Refusal) -> None:
    if isinstance(item, Refusal):
        typer.echo(f"lmt2: {item}", err=True)
        return
    producer.send([item])
    typer.echo(f"sent: {item.id}" + (f", supersedes {item.supersedes}" if item.supersedes else ""))
