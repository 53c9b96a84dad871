"""The learner's work on one update request: a shard, and the candidate version that has it or lacks another's."""

import math
import time
from collections.abc import Callable, Mapping

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from learner.hand import Figures
from learner.methods import METHODS, Build
from learner.rehearsal import rehearsal_targets
from learner.rounds import Rounds
from learner.targets import Target
from learner.update import Report
from lmt2 import telemetry
from lmt2.artifacts import ArtifactStore
from lmt2.config import Method, Settings
from lmt2.data import general
from lmt2.errors import EventError, Overtaken, TrainingFailed
from lmt2.events import CANDIDATES, UPDATES, Candidate, UpdateRequest, decode, encode
from lmt2.ledger import NOT_RETRACTED, DocumentRow, Ledger, UpdateRow, VersionRow, desired_version
from lmt2.models.encoder import Embeds
from lmt2.models.local import LocalModel
from lmt2.stage import Outcome, Worker
from lmt2.study.lessons import LessonWriter
from lmt2.study.scholar import Scholar
from lmt2.transport.base import Outgoing, Record
from memory.routing import threshold_for
from memory.shards import Shard, keys_of
from memory.versioned import Shelf, VersionedModel
from memory.versions import Manifest, ShardEntry

TO_DO = ("requested", "dead")  # states of updates; a dead letter's is learnt when it is replayed


class Learner:
    """Makes shards of update requests; it knows nothing of events or the ledger.

    The teacher that gives distributions is the scholar's reader, where that is a model of this process: distributions
    over the whole vocabulary don't come from an endpoint.
    """

    def __init__(
        self,
        settings: Settings,
        model: LocalModel,
        scholar: Scholar,
        encoder: Embeds,
        methods: Mapping[Method, Build] = METHODS,
    ) -> None:
        self._settings = settings
        self._methods = [methods[name] for name in settings.learner.methods]
        self._reader = scholar.reader if isinstance(scholar.reader, LocalModel) else None
        self._writer = LessonWriter(scholar, encoder, settings.study)
        self.model = model
        self.encoder = encoder
        self._rehearsal: list[Target] = []
        self.general = encoder([g.q for g in general()[::2]])  # [N, E]; the gate examines the other half

    def learn(
        self, request: UpdateRequest, report: Report, serve: Callable[[], VersionedModel | LocalModel] | None = None
    ) -> tuple[Shard, Figures]:
        """A trained shard for the request's lessons, and what the training was like; raises TrainingFailed.

        `serve` opens what is promoted now, for methods that ask it; None: nothing is, beside the base model.
        """
        settings = self._settings.learner
        if not self._rehearsal:
            self._rehearsal = rehearsal_targets(self.model, settings.seed)
        rounds = Rounds(self._methods, self.model, self._reader, self._writer, self._rehearsal, settings)
        return rounds.learn(request, report, serve or (lambda: self.model))


class LearnerWorker(Worker):
    """Turns update requests into candidate versions."""

    name = "learner"
    topic = UPDATES

    def __init__(self, settings: Settings, ledger: Ledger, store: ArtifactStore, learner: Learner) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._learner = learner
        self._shelf = Shelf(store, learner.model)
        self._log = telemetry.logger(self.name)

    def work(self, record: Record) -> Outcome:
        """The candidate that an update request leads to; a failed training rejects its documents.

        A removal of documents that leaves none to teach needs no training: nothing else changes.
        """
        request, _ = decode(record.value, UpdateRequest, record.headers)
        with self._ledger.begin() as session:
            row = session.get(UpdateRow, request.id)
            if row is not None and row.state not in TO_DO:
                return Outcome()  # read twice, or withdrawn
            parent = _manifest(session)
        started = time.monotonic()
        try:
            entry, training = self._learnt(request, parent) if request.documents else (None, {})
        except TrainingFailed as error:
            return self._failed(request, error)
        seconds = time.monotonic() - started
        telemetry.update_seconds.observe(seconds)
        figures: Figures = {**training, "seconds": seconds, "lessons": len(request.lessons)}
        manifest = self._new(self._candidate(parent, request, entry))
        told = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
        self._log.info("trained", update=request.id, version=manifest.id, **told)
        return self._trained(request, manifest, figures, record.key)

    def give_up(self, record: Record, session: Session) -> None:
        """The update no longer counts as one that waits; replayed, it is learnt after all."""
        try:
            request, _ = decode(record.value, UpdateRequest, record.headers)
        except EventError:  # it never was an update
            return
        waiting = (UpdateRow.id == request.id, UpdateRow.state == "requested")
        session.execute(update(UpdateRow).where(*waiting).values(state="dead"))

    def _learnt(self, request: UpdateRequest, parent: Manifest) -> tuple[ShardEntry, Figures]:
        learner = self._learner
        shard, training = learner.learn(
            request,
            self._progress(request),
            lambda: VersionedModel(learner.model, learner.encoder, self._shelf, parent),
        )
        artifact = self._store.put(shard.tensors(), {"update": request.id, "base": parent.base})
        return ShardEntry(artifact=artifact, documents=request.teaches, update=request.id), training

    def _candidate(self, parent: Manifest, request: UpdateRequest, entry: ShardEntry | None) -> Manifest:
        general = self._store.put({"general": self._learner.general}, {})
        child = parent.replace(request.replaces, entry, parent.threshold, general)
        keys = [keys_of(self._store.get(s.artifact)) for s in child.shards]
        return child.model_copy(update={"threshold": threshold_for(keys, self._learner.general)})

    def _new(self, manifest: Manifest) -> Manifest:
        """The version, or where one of its name was decided before, the same but for a hair's breadth of threshold.

        A removal that was refused and is asked for again has the same content. Each version is decided once.
        """
        with self._ledger.begin() as session:
            while session.get(VersionRow, manifest.id) is not None:
                manifest = manifest.model_copy(update={"threshold": math.nextafter(manifest.threshold, math.inf)})
        return manifest

    def _trained(self, request: UpdateRequest, manifest: Manifest, figures: Figures, key: bytes | None) -> Outcome:
        def effect(session: Session) -> None:
            _set_update(session, request, "trained", figures)
            session.merge(
                VersionRow(
                    id=manifest.id,
                    parent=manifest.parent,
                    update_id=request.id,
                    state="candidate",
                    manifest=manifest.model_dump(mode="json"),
                )
            )

        # The request's key: the candidates of a document come to the gate in the order of its updates.
        candidate = Candidate(
            version=manifest.id, update=request.id, parent=manifest.parent or "", event_time=request.event_time
        )
        value = encode(candidate, id=manifest.id, source="lmt2/learner")
        return Outcome(effect, (Outgoing(CANDIDATES, value, key),))

    def _failed(self, request: UpdateRequest, error: TrainingFailed) -> Outcome:
        self._log.error("training failed", update=request.id, message=str(error))
        told = f"training-failed: {error}"

        def effect(session: Session) -> None:
            _set_update(session, request, "failed", {})
            if request.retracts:  # what can't be taken out is still served
                leaving = (DocumentRow.id.in_(request.retracts), DocumentRow.state == "retracting")
                as_before = {"state": "learnt", "reason": NOT_RETRACTED + told}
                session.execute(update(DocumentRow).where(*leaving).values(as_before))
                return
            new = (DocumentRow.id.in_(request.teaches), DocumentRow.state == "requested")
            for row in session.scalars(select(DocumentRow).where(*new)):
                row.state, row.reason = "rejected", told
                telemetry.documents_total.labels("rejected").inc()

        return Outcome(effect)

    def _progress(self, request: UpdateRequest) -> Report:
        def report(step: int, of: int, loss: float) -> None:
            if step % 10 == 0:
                self._log.info("step", update=request.id, step=step, of=of, loss=round(loss, 3))

        return report


def _manifest(session: Session) -> Manifest:
    version = session.get(VersionRow, desired_version(session))
    assert version is not None, "the pipeline writes a first version before any stage starts"
    return Manifest.model_validate(version.manifest)


def _set_update(session: Session, request: UpdateRequest, state: str, figures: Figures) -> None:
    """Move a requested update on; raises Overtaken if it was withdrawn, or worked on by another, meanwhile."""
    if session.get(UpdateRow, request.id) is None:  # the request came from another ledger or by hand
        session.add(UpdateRow(id=request.id, state="requested", payload=request.model_dump(mode="json")))
        session.flush()
    still = (UpdateRow.id == request.id, UpdateRow.state.in_(TO_DO))
    moved = update(UpdateRow).where(*still).values(state=state, figures=dict(figures)).returning(UpdateRow.id)
    if session.scalar(moved) is None:
        raise Overtaken(f"update {request.id} was withdrawn while it was trained")
