"""One machine, several stages in one process: answers first, study and training in the gaps.

Background work takes the processor step by step, one thread at a time, so that OpenMP teams don't fight; it
waits between steps while an answer is being generated.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Compute:
    """Who may use the processor now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._serving = 0
        self._one_at_a_time = threading.Lock()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While this block runs no new background step starts."""
        with self._changed:
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
                self._changed.wait_for(lambda: self._serving == 0)
            yield


compute = Compute()
