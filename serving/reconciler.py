"""Makes every replica serve the desired version, and keeps it so.

The ledger says what is desired; a promotion and a rollback are the same to a replica. Each pass:

1. read the desired version;
2. ask the replica what it serves, if that may have changed: another version is desired, or some time went by
   (a replica that was restarted elsewhere has forgotten);
3. where it differs, load the version, hand it over, and ask again: only the replica's own word counts;
4. write down what it serves, in the ledger and in the metrics.

What fails is written down and tried again, ever less often. The desired state stays as it is: giving up is
for people, with a rollback.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from lmt2 import telemetry
from lmt2.errors import LMT2Error, ServingError
from lmt2.ledger import DocumentRow, Ledger, PromotionRow, ReplicaRow, VersionRow, desired_version, now
from memory.versioned import VersionedModel
from memory.versions import Manifest
from serving.backend import BASE

POLL_SECONDS = 0.2
CHECK_SECONDS = 5.0  # how often a replica is asked when nothing should have changed
LONGEST_WAIT = 10.0


class Target(Protocol):
    """A replica that serves a version."""

    name: str

    def served(self) -> str | None:
        """What the replica says that it serves; None is the base model. Raises ServingError if it doesn't answer."""
        ...

    def swap(self, version: VersionedModel | None) -> None:
        """Make the replica serve a version. Raises ServingError if it can't."""
        ...


@dataclass
class Replica:
    """What the reconciler knows of a target. Times are of the monotonic clock."""

    target: Target
    is_known: bool = False
    is_current: bool = False
    version: str | None = None
    shown: str | None = None  # the version in its metric
    tried: str | None = None
    check_at: float = 0.0
    wait: float = POLL_SECONDS

    def is_due(self, desired: str | None) -> bool:
        """Whether it is time to look after it: a newly desired version never waits for an earlier one's back-off."""
        return desired != self.tried or time.monotonic() >= self.check_at

    def succeeded(self, version: str | None) -> None:
        """It serves the version: look again after a while."""
        self.is_known, self.version = True, version
        self.wait, self.check_at = POLL_SECONDS, time.monotonic() + CHECK_SECONDS

    def failed(self) -> None:
        """It doesn't do as it is told: wait, twice as long each time."""
        self.is_known = False
        self.check_at = time.monotonic() + self.wait
        self.wait = min(2 * self.wait, LONGEST_WAIT)


class Reconciler:
    """Looks after the replicas, each on a thread of its own: one that hangs holds up no other."""

    def __init__(
        self, ledger: Ledger, targets: Sequence[Target], load_version: Callable[[str], VersionedModel]
    ) -> None:
        self._ledger = ledger
        self._replicas = [Replica(target) for target in targets]
        self._load_version = load_version
        self._log = telemetry.logger("serving")
        self._recording = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[replica], name="reconciler", daemon=True)
            for replica in self._replicas
        ]

    def start(self) -> None:
        """Put back what was served before a restart, then go on in the background.

        Raises:
            StorageError: the ledger can't be read.
        """
        self.reconcile()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the passes in hand."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def is_ready(self) -> bool:
        """Whether, at the latest pass, at least one replica served the desired version (or, none desired, the base)."""
        return any(replica.is_current for replica in self._replicas)

    def reconcile(self) -> None:
        """One pass over all replicas."""
        for replica in self._replicas:
            self._visit(replica)

    def _run(self, replica: Replica) -> None:
        wait = POLL_SECONDS
        while not self._stop.wait(wait):
            try:
                self._visit(replica)
                wait = POLL_SECONDS
            except Exception:  # noqa: BLE001 - the ledger may be away for a while: what is served stays
                self._log.exception("a pass of the reconciler failed")
                wait = min(2 * wait, LONGEST_WAIT)

    def _visit(self, replica: Replica) -> None:
        with self._ledger.begin() as session:
            desired = desired_version(session)
        if replica.is_due(desired):
            self._look_after(replica, desired)
        replica.is_current = replica.is_known and replica.version == desired

    def _look_after(self, replica: Replica, desired: str | None) -> None:
        replica.tried = desired
        try:
            self._make_serve(replica.target, desired)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this replica or version must not hold up the others
            is_unexpected = not isinstance(error, LMT2Error)
            name = replica.target.name
            self._log.warning("not serving the desired version", replica=name, error=str(error), exc_info=is_unexpected)
            replica.failed()
            self._record_error(name, str(error))
        else:
            self._record(replica, desired)
            replica.succeeded(desired)

    def _make_serve(self, target: Target, desired: str | None) -> None:
        if target.served() == desired:
            return
        target.swap(None if desired is None else self._load_version(desired))
        served = target.served()
        if served != desired:
            raise ServingError(f"{target.name} was given version {desired} and says that it serves {served}")

    def _record(self, replica: Replica, desired: str | None) -> None:
        name, version = replica.target.name, desired or BASE
        if replica.is_known and replica.shown == version:
            return
        with self._recording, self._ledger.begin() as session:  # two replicas must not both bring a document
            event_times = _newly_served(session, desired)
            session.merge(ReplicaRow(name=name, version_id=version, error="", changed_at=now()))
        for event_time in event_times:
            telemetry.freshness_seconds.observe((now() - event_time).total_seconds())
        if replica.shown is not None:
            telemetry.serving_version_info.remove(name, replica.shown)
        telemetry.serving_version_info.labels(name, version).set(1)
        replica.shown = version
        self._log.info("serving", replica=name, version=version)

    def _record_error(self, name: str, error: str) -> None:
        with self._ledger.begin() as session:
            row = session.get(ReplicaRow, name) or ReplicaRow(name=name, version_id=BASE)
            row.error = error
            session.add(row)


def _newly_served(session: Session, desired: str | None) -> list[datetime]:
    """Event times of the documents that the newest promotion brings into service for the first time.

    A rollback or a restart brings nothing new: the former has no decision, and after the latter a replica is
    on record as having served the version.
    """
    promotion = session.scalar(select(PromotionRow).order_by(PromotionRow.seq.desc()).limit(1))
    if promotion is None or promotion.version_id != desired or promotion.decision is None:
        return []
    if session.scalar(select(ReplicaRow.name).where(ReplicaRow.version_id == desired).limit(1)) is not None:
        return []
    version = session.get_one(VersionRow, desired)
    shards = Manifest.model_validate(version.manifest).shards
    taught = [document for shard in shards if shard.update == version.update_id for document in shard.documents]
    return list(session.scalars(select(DocumentRow.event_time).where(DocumentRow.id.in_(taught))))
