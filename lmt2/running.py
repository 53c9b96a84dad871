"""A running LMT²: one process owns a home folder, and says in HOME/run.json where it answers.

The owner holds a lock that the system frees when the process ends, however it ends. So a run.json without a
lock is what a killed process left behind, and a number of a process that was given anew fools nobody.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lmt2.errors import ConfigError, StorageError

LOCK_SECONDS = 2.0  # a command that looks for the owner holds the lock for a moment, too


class Running(BaseModel):
    """Where a running LMT² answers, and how it was configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    serving: str
    console: str
    kafka: str = ""
    config: Path | None = None


def find(home: Path) -> Running | None:
    """The LMT² that runs in a home and is ready, or None."""
    try:
        lock = os.open(home / "run.lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(home)
    finally:
        os.close(lock)
    return None


@contextmanager
def claimed(home: Path) -> Iterator[None]:
    """Own a home within this block; what was announced is taken back at its end.

    Raises:
        ConfigError: another process owns it.
        StorageError: the folder can't be made or written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"the home folder {home} can't be used: {error.strerror}; choose one with --home") from error
    try:
        _lock(lock, home)
        (home / "run.json").unlink(missing_ok=True)
        try:
            yield
        finally:
            (home / "run.json").unlink(missing_ok=True)
    finally:
        os.close(lock)


def announce(home: Path, running: Running) -> None:
    """Write run.json; readers see all of it or nothing. Call it while the home is claimed.

    Raises:
        StorageError: the disk refused.
    """
    scratch = home / "run.json.tmp"
    try:
        scratch.write_text(running.model_dump_json(indent=2), encoding="utf-8")
        scratch.replace(home / "run.json")
    except OSError as error:
        raise StorageError(f"{home / 'run.json'} can't be written: {error.strerror}; check disk space") from error


def _lock(lock: int, home: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigError(f"LMT² runs in {home} already: use it, stop it, or choose another --home") from None
            time.sleep(0.05)
        else:
            return


def _read(home: Path) -> Running | None:
    try:
        return Running.model_validate_json((home / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:  # it is still starting
        return None
