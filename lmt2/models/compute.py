"""One machine, several stages in one process: answers first, study and training in the gaps.

Background work takes the processor step by step, one thread at a time, so that OpenMP teams don't fight; it
waits between steps while answers are being generated. Where they never end, it gets a step now and then all the same:
a server that is never idle must still learn.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 5.0  # seconds that background work waits for a gap


class Compute:
    """Who may use the processor now."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._waits_since: float | None = None
        self._changed = threading.Condition()
        self._serving = 0
        self._one_at_a_time = threading.Lock()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While this block runs no new background step starts; one that waited too long starts before it."""
        with self._changed:
            self._changed.wait_for(lambda: self._serving > 0 or not self._is_overdue())
            self._serving += 1
        try:
            yield
        finally:
            with self._changed:
                self._serving -= 1
                self._changed.notify_all()

    @contextmanager
    def background(self) -> Iterator[None]:
        """One step of background work, of at most about a second."""
        with self._one_at_a_time:
            with self._changed:
                self._waits_since = time.monotonic()
                self._changed.wait_for(lambda: self._serving == 0)
                self._waits_since = None
                self._changed.notify_all()
            yield

    def _is_overdue(self) -> bool:
        return self._waits_since is not None and time.monotonic() - self._waits_since > self._patience


compute = Compute()
