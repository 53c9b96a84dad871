"""Migrations of the ledger's tables, run by the program itself: there is no step for an operator to forget."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from lmt2.errors import StorageError

ADVISORY_LOCK = 0x4C4D5432  # "LMT2": the same number in every process


def upgrade(engine: Engine) -> None:
    """Bring the tables to the newest revision, in one transaction; processes that start at once take turns.

    Raises:
        StorageError: the tables are of a revision that this release doesn't know.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.begin() as connection:
        _take_turn(connection)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StorageError(f"the ledger's tables are of a newer release: {error}; update this one") from error


def _take_turn(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
