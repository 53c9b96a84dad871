"""Files that several threads open at the same moment."""

import threading
from pathlib import Path

from lmt2.ledger import Ledger
from lmt2.transport.embedded import EmbeddedTransport

ROUNDS, THREADS = 40, 6


def open_both(folder: Path, together: threading.Barrier, failures: list[Exception]) -> None:
    together.wait()
    try:
        EmbeddedTransport(folder / "events.db").producer().close()
        Ledger(f"sqlite:///{folder / 'ledger.db'}").engine.connect().close()
    except Exception as error:  # noqa: BLE001 (the test's own thread fails with it)
        failures.append(error)


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        together = threading.Barrier(THREADS)
        threads = [threading.Thread(target=open_both, args=(folder, together, failures)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
