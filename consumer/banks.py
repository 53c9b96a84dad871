"""Each partition's drift detectors, kept up with the ledger.

What a bank knows is what the ledger holds: before a document is watched, the bank of its partition takes in the
signal values that were written since, by whichever consumer had the partition. The document itself is tried on a
copy, for its effect isn't durable yet. So neither a repeat nor a partition's move counts anything twice or not at all.
"""

from copy import deepcopy

import numpy as np
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from consumer.drift import DriftBank, Signal, Watched
from lmt2.config import DriftSettings
from lmt2.ledger import Ledger, SignalRow


class Banks:
    """The banks of the partitions that were seen so far."""

    def __init__(self, settings: DriftSettings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._banks: dict[int, tuple[DriftBank, int]] = {}  # by partition, with the newest row taken in

    def watch(self, partition: int, signal: Signal) -> Watched:
        """What a document of a partition says, after all that are in the ledger."""
        bank, newest = self._banks.get(partition) or (DriftBank(self._settings), 0)
        with self._ledger.begin() as session:
            rows = self._since(session, partition, newest)
        bank.replay(signal_of(row) for row in rows)
        self._banks[partition] = bank, rows[-1].id if rows else newest
        return deepcopy(bank).update(signal)

    def _since(self, session: Session, partition: int, newest: int) -> list[SignalRow]:
        """A partition's rows after the newest that was taken in: the last ones, where those are very many."""
        mine = select(SignalRow).where(SignalRow.partition == partition, SignalRow.id > newest)
        return list(session.scalars(mine.order_by(SignalRow.id.desc()).limit(self._settings.remember)))[::-1]


def signal_row(document: str, partition: int, signal: Signal) -> SignalRow:
    """A document's values as they are kept."""
    embedding = b"" if signal.embedding is None else signal.embedding.float().numpy().tobytes()
    return SignalRow(
        document_id=document, partition=partition, conflict=signal.conflict, nll=signal.nll, embedding=embedding
    )


def signal_of(row: SignalRow) -> Signal:
    """The values of a row."""
    embedding = torch.from_numpy(np.frombuffer(row.embedding, np.float32).copy()) if row.embedding else None
    return Signal(row.conflict, row.nll, embedding)
