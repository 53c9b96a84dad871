"""`lmt2 up` in a process of its own, for the demo and for tests: started, waited for, and stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lmt2 import running
from lmt2.errors import ServingError
from lmt2.running import Running

READY_SECONDS = 300.0
STOP_SECONDS = 30.0


class Child:
    """A pipeline on free ports; its log, in JSON lines, goes to HOME/up.log."""

    def __init__(self, home: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self._options = options
        self._environment = {
            **os.environ,
            "LMT2_GATE_PORT": "0",
            "LMT2_TELEMETRY_LOG_FORMAT": "json",
            **(environment or {}),
        }
        self._read = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.home / "up.log"

    def start(self) -> None:
        """Start it, without waiting."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                lmt2_command("up", "--home", str(self.home), "--port", "0", *self._options),
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ready(self, seconds: float = READY_SECONDS) -> Running:
        """Where it answers, once it does.

        Raises:
            ServingError: it ended, or took too long; the message ends with what its log says.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            if (found := running.find(self.home)) is not None and found.pid == self.process.pid:
                return found
            time.sleep(0.1)
        raise ServingError(f"`lmt2 up` was not ready after {seconds:.0f} s: {self._last_words()}")

    def check(self) -> None:
        """Raise ServingError if it ended."""
        if self.process.poll() is not None:
            raise ServingError(f"`lmt2 up` ended with {self.process.returncode}: {self._last_words()}")

    def stop(self) -> int:
        """Ask it to end, and make it; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it without asking."""
        self.process.kill()
        return self.process.wait()

    def new_log_entries(self) -> Iterator[dict[str, Any]]:
        """What it logged since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                if line.startswith(b"{"):
                    yield json.loads(line)

    def _last_words(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-1500:]


def lmt2_command(*arguments: str) -> Sequence[str]:
    """The command line of `lmt2` in this interpreter."""
    return [sys.executable, "-m", "lmt2", *arguments]
