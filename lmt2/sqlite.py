"""Opening SQLite files that several threads and processes use at once."""

import sqlite3
import time

BUSY_SECONDS = 30.0  # how long a writer waits for another one's transaction
RETRY_SECONDS = 0.02


def make_durable(connection: sqlite3.Connection) -> None:
    """Readers and the writer don't wait for each other, and a commit survives a power cut.

    The switch to a write-ahead log is the one step at which SQLite doesn't wait for others: where several open
    a new file at the same moment, all but one are told at once that it is locked.

    Raises:
        sqlite3.Error: the file is no database, can't be written, or stays locked.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
    connection.execute("PRAGMA synchronous=FULL")
