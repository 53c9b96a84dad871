"""Builds what stages share, once a process, and puts the stages on top of it.

`lmt2 up` runs all stages in one process on one model; `lmt2 consumer` and the like run one stage on what it needs.
"""

import socket
from collections.abc import Callable, Mapping
from functools import cached_property, partial

import torch
from sqlalchemy.exc import IntegrityError

from consumer.backlog import is_full
from consumer.worker import ConsumerWorker
from gate import app as gate_app
from gate import registry
from gate.worker import GateWorker
from learner.worker import Learner, LearnerWorker
from lmt2.artifacts import ArtifactStore
from lmt2.config import Settings
from lmt2.errors import ConfigError
from lmt2.events import TOPICS
from lmt2.ledger import Ledger, PromotionRow, desired_version, is_paused
from lmt2.models.assets import model_path
from lmt2.models.encoder import Encoder
from lmt2.models.local import LocalModel
from lmt2.servers import Application
from lmt2.stage import Stage, Worker
from lmt2.study.scholar import Scholar, open_scholar
from lmt2.supervisor import Service
from lmt2.transport import open_transport
from lmt2.transport.base import Transport
from memory.versioned import Shelf, VersionedModel, base_fingerprint
from memory.versions import Manifest, untouched
from serving.app import create_app
from serving.backend import Backend
from serving.engine import EmbeddedEngine
from serving.reconciler import Reconciler, Target
from serving.vllm_backend import VllmBackend, VllmReplica
from serving.vllm_client import VllmClient


class Parts:
    """What stages share; each part is built when the first stage asks for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if settings.model.threads:
            torch.set_num_threads(settings.model.threads)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, its tables up to date and its first version in place."""
        folder = model_path(self.settings.model.name)
        ledger = Ledger(self.settings.ledger_url)
        ledger.migrate()
        _put_first_version(ledger, base_fingerprint(folder))
        return ledger

    @cached_property
    def transport(self) -> Transport:
        """The event log, with all topics."""
        transport = open_transport(self.settings)
        transport.create_topics(TOPICS)
        return transport

    @cached_property
    def store(self) -> ArtifactStore:
        """The weights."""
        return ArtifactStore(self.settings.artifacts_url)

    @cached_property
    def model(self) -> LocalModel:
        """The base model: probe of the consumer, student of the learner, body of every version."""
        return LocalModel(model_path(self.settings.model.name), self.settings.model.dtype)

    @cached_property
    def encoder(self) -> Encoder:
        """Sentence embeddings."""
        return Encoder(model_path(self.settings.model.encoder))

    @cached_property
    def scholar(self) -> Scholar:
        """Reads documents and writes questions."""
        return open_scholar(self.settings)

    def load_version(self, name: str) -> VersionedModel:
        """A version of the ledger, ready to answer those who wait."""
        with self.ledger.begin() as session:
            manifest = registry.manifest_of(registry.version(session, name))
        return VersionedModel(self.model, self.encoder.at_once(), self._shelf, manifest)

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf(self.store, self.model)


def consumer(parts: Parts) -> Service:
    """The stage that takes documents in; it holds while the learner is behind."""
    worker = ConsumerWorker(parts.settings, parts.ledger, parts.scholar, parts.model, parts.encoder)
    return _stage(parts, worker, partial(is_full, parts.settings.consumer.max_backlog))


def learner(parts: Parts) -> Service:
    """The stage that trains; it holds while an operator has paused learning."""
    skills = Learner(parts.settings, parts.model, parts.scholar, parts.encoder)
    return _stage(parts, LearnerWorker(parts.settings, parts.ledger, parts.store, skills), is_paused)


def gate(parts: Parts) -> Service:
    """The stage that decides."""
    return _stage(parts, GateWorker(parts.settings, parts.ledger, parts.store, parts.model, parts.encoder))


STAGES: Mapping[str, Callable[[Parts], Service]] = {"consumer": consumer, "learner": learner, "gate": gate}


def console(parts: Parts, listener: socket.socket) -> Service:
    """The gate's HTTP interface and console page."""
    application = Application(gate_app.create_app(parts.settings, parts.ledger), listener)
    return Service("console", application.run, application.stop)


def serving(parts: Parts, listener: socket.socket) -> Service:
    """The serving address. The promoted version is put back before the first answer."""
    targets, backend = _vllm(parts) if parts.settings.serving.vllm else _embedded(parts)
    reconciler = Reconciler(parts.ledger, targets, parts.load_version)
    application = Application(create_app(parts.settings, backend, reconciler.is_ready), listener)

    def run() -> None:
        reconciler.start()
        try:
            application.run()
        finally:
            reconciler.stop()

    return Service("serving", run, application.stop)


def _stage(parts: Parts, worker: Worker, *hold: Callable[..., bool]) -> Service:
    stage = Stage(worker, parts.transport, parts.ledger, parts.settings.kafka.group_prefix, *hold)
    return Service(worker.name, stage.run, stage.stop)


def _embedded(parts: Parts) -> tuple[list[Target], Backend]:
    limits = parts.settings.serving
    engine = EmbeddedEngine(parts.model, limits.max_batch, limits.max_queue)
    return [engine], engine


def _vllm(parts: Parts) -> tuple[list[Target], Backend]:
    key, adapters = parts.settings.serving.vllm_key, parts.settings.home / "adapters"
    replicas = [VllmReplica(VllmClient(address, key), adapters) for address in parts.settings.serving.vllm]
    return list(replicas), VllmBackend(replicas)


def _put_first_version(ledger: Ledger, base: str) -> None:
    """Promote the untouched base where nothing was promoted yet.

    Raises:
        ConfigError: what the ledger promoted was made for another base model.
    """
    first = untouched(base)
    try:
        with ledger.begin() as session:
            promoted = desired_version(session)
            if promoted is None:
                registry.add(session, first, None, "accepted")
                session.add(PromotionRow(version_id=first.id, cause="initial", decision=f"initial {first.id}"))
    except IntegrityError:  # another stage that started at the same moment was quicker
        promoted = None
    if promoted is not None:
        with ledger.begin() as session:
            _check_base(registry.manifest_of(registry.version(session, promoted)), base)


def _check_base(manifest: Manifest, base: str) -> None:
    if manifest.base != base:
        raise ConfigError(
            f"model.name: version {manifest.id} in the ledger was made for another base model; "
            "put the former model back, or start anew with another --home"
        )
