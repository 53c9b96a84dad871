"""Runs services side by side until a signal, or until one of them can't go on.

Stopping asks each to end after the work in hand and gives them some seconds. Work that takes longer is
abandoned: none of it is committed, so the next start does it again.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lmt2.errors import LMT2Error

GRACE_SECONDS = 10.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)
left_behind: list[threading.Thread] = []  # threads of this process whose work was abandoned


class ServiceEnded(LMT2Error, RuntimeError):
    """A service came to an end that nobody asked for."""


@dataclass(frozen=True)
class Service:
    """Something that works until it is told to stop.

    Attributes:
        name: what messages call it.
        run: works; returns after `stop`, raises if the work can't go on.
        stop: asks it to end soon, and returns at once.
    """

    name: str
    run: Callable[[], None]
    stop: Callable[[], None]


class Supervisor:
    """One thread for each service. Must be used from the main thread, which alone hears signals."""

    def __init__(self, services: Sequence[Service], grace_seconds: float = GRACE_SECONDS) -> None:
        self._services = services
        self._grace = grace_seconds
        self._over = threading.Event()
        self._in_a_hurry = False
        self._failures: list[BaseException] = []

    def run(self, on_started: Callable[[], None] = lambda: None) -> None:
        """Run all; returns after SIGTERM or SIGINT (a second one ends the patience with work in hand).

        Raises:
            Exception: whatever ended the first service that failed.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(service,), name=service.name, daemon=True)
            for service in self._services
        ]
        with _handling(self._hear):
            for thread in threads:
                thread.start()
            on_started()
            self._over.wait()
            for service in self._services:
                service.stop()
            self._wait_for(threads)
        if self._failures:
            raise self._failures[0]

    def _guarded(self, service: Service) -> None:
        try:
            service.run()
            if not self._over.is_set():
                raise ServiceEnded(f"{service.name} ended unexpectedly; its log says why")
        except BaseException as error:  # noqa: BLE001 - whatever it is: the others must stop, and it is raised later
            self._failures.append(error)
        finally:
            self._over.set()

    def _hear(self, _: int, __: FrameType | None) -> None:
        self._in_a_hurry = self._over.is_set()
        self._over.set()

    def _wait_for(self, threads: Sequence[threading.Thread]) -> None:
        deadline = time.monotonic() + self._grace
        while any(t.is_alive() for t in threads) and time.monotonic() < deadline and not self._in_a_hurry:
            time.sleep(0.05)
        left_behind.extend(t for t in threads if t.is_alive())


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
