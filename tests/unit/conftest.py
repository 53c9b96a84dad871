"""What several unit tests share: building it takes longer than using it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from lmt2.ledger import Ledger
from lmt2.models.local import LocalModel
from tests.support.tiny import tiny_model


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    """A command under test configures logging for the output that pytest captures; later tests don't have that one."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def tiny_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's files."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LocalModel:
    """The tiny model in float32. It is frozen: tests may share it, and must not change it."""
    return LocalModel(tiny_folder, "float32")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in a file of the test's own."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    yield ledger
    ledger.close()
