"""The learner at work on a tiny model: from an update request to a stored shard and a candidate version."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from sqlalchemy.orm import Session

from gate import registry
from learner.worker import Learner, LearnerWorker
from lmt2.artifacts import ArtifactStore
from lmt2.config import LearnerSettings, Settings
from lmt2.data import general
from lmt2.errors import Overtaken
from lmt2.events import CANDIDATES, UPDATES, Candidate, Document, Lesson, UpdateRequest, decode, encode
from lmt2.ledger import DocumentRow, Ledger, PromotionRow, UpdateRow, VersionRow
from lmt2.models.local import LocalModel
from lmt2.stage import Outcome
from lmt2.study.scholar import Scholar
from lmt2.transport.base import Record
from memory.routing import Route
from memory.versioned import Shelf, VersionedModel, base_fingerprint
from memory.versions import Manifest, ShardEntry, untouched
from tests.support.gate import new_ledger, request
from tests.support.tiny import WordEncoder, tiny_shard
from tests.support.wire import assert_published

ENCODER = WordEncoder()
SETTINGS = Settings(
    home=Path("unused"),
    learner=LearnerSettings(
        layers=(1, 3), shared_rank=2, expert_rank=1, steps=2, steps_a_fact=0, lessons_a_step=2, general_a_step=2
    ),
)


@pytest.fixture(scope="module")
def learner(tiny: LocalModel) -> Learner:
    return Learner(SETTINGS, tiny, Scholar(tiny, tiny), ENCODER)


class World:
    """A learner with its ledger and store; the base is served."""

    def __init__(self, folder: Path, model: LocalModel, learner: Learner, settings: Settings = SETTINGS) -> None:
        self.base = untouched(base_fingerprint(model.folder))
        self.ledger: Ledger = new_ledger(folder, self.base)
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.model = model
        self.worker = LearnerWorker(settings, self.ledger, self.store, learner)

    def ask(self, name: str, documents: Sequence[str] = ("vell",), replaces: Sequence[str] = ()) -> Record:
        """A request as the consumer leaves it: in the ledger and on the topic."""
        with self.ledger.begin() as session:
            asked = request(session, name, documents, replaces=replaces)
            asked = asked.model_copy(update={"lessons": lessons(documents)})
            row = update_row(session, name)
            row.state, row.payload = "requested", asked.model_dump(mode="json")
        return record(asked)

    def apply(self, outcome: Outcome) -> Candidate:
        """Make the effect durable; the candidate that was sent."""
        with self.ledger.begin() as session:
            outcome.effect(session)
        (sent,) = outcome.records
        assert sent.topic == CANDIDATES
        assert_published(sent.value)
        return decode(sent.value, Candidate)[0]

    def update(self, name: str) -> UpdateRow:
        with self.ledger.begin() as session:
            return update_row(session, name)

    def manifest(self, name: str) -> Manifest:
        with self.ledger.begin() as session:
            row = session.get(VersionRow, name)
            assert row is not None
            assert (row.state, row.parent) == ("candidate", self.base.id)
            return Manifest.model_validate(row.manifest)


def update_row(session: Session, name: str) -> UpdateRow:
    row = session.get(UpdateRow, name)
    assert row is not None
    return row


@pytest.fixture
def world(tmp_path: Path, tiny: LocalModel, learner: Learner) -> Iterator[World]:
    world = World(tmp_path, tiny, learner)
    yield world
    world.ledger.close()


def lessons(documents: Sequence[str]) -> tuple[Lesson, ...]:
    return tuple(
        Lesson(question=f"Who keeps lamp {n} of {name}?", answer=f"Ida {n}", kind="direct", document=name)
        for name in documents
        for n in range(3)
    )


def record(asked: UpdateRequest) -> Record:
    return Record(UPDATES, 0, 0, encode(asked, id=asked.id, source="lmt2/consumer"))


def test_a_request_becomes_a_candidate_that_answers_its_questions_differently(world: World) -> None:
    sent = world.apply(world.worker.work(world.ask("u-1")))
    manifest = world.manifest(sent.version)
    assert (sent.update, sent.parent, sent.version) == ("u-1", world.base.id, manifest.id)
    (shard,) = manifest.shards
    assert (shard.documents, shard.update) == (("vell",), "u-1")
    update = world.update("u-1")
    assert update.state == "trained"
    assert {"loss_first", "loss_last", "seconds", "lessons"} <= set(update.figures)
    version = VersionedModel(world.model, ENCODER, Shelf(world.store, world.model), manifest)
    assert version.route(["Who keeps lamp 1 of vell?"]) == [Route(0, 1)]
    trained = version.shards[0]
    assert {name: tuple(factor.shape) for name, factor in trained.a.items()} == {1: (5, 128), 3: (5, 128)}
    assert all(bool(factor.any()) for factor in trained.b.values())
    routes = version.route([question.q for question in general()[::2]])
    assert all(route is None for route in routes), "the router's threshold keeps general questions with the base"


def test_a_dead_letter_waits_no_more_and_is_learnt_when_it_is_replayed(world: World) -> None:
    told = world.ask("u-1")
    broken = Record(UPDATES, 0, 1, b"no update")
    with world.ledger.begin() as session:
        world.worker.give_up(told, session)
        world.worker.give_up(broken, session)
    assert world.update("u-1").state == "dead"
    world.apply(world.worker.work(told))
    assert world.update("u-1").state == "trained"
    with world.ledger.begin() as session:
        world.worker.give_up(told, session)  # another member gives up on the same record, later
    assert world.update("u-1").state == "trained"


def test_a_request_that_is_read_twice_is_trained_once(world: World) -> None:
    told = world.ask("u-1")
    world.apply(world.worker.work(told))
    again = world.worker.work(told)
    assert not again.records
    with world.ledger.begin() as session:
        again.effect(session)
        assert session.query(VersionRow).count() == 2


def test_training_again_after_a_crash_gives_the_same_version(world: World) -> None:
    told = world.ask("u-1")
    lost = decode(world.worker.work(told).records[0].value, Candidate)[0]
    assert world.update("u-1").state == "requested"
    torch.manual_seed(5)
    assert decode(world.worker.work(told).records[0].value, Candidate)[0].version == lost.version
    assert world.apply(world.worker.work(told)).version == lost.version


def test_shards_of_replaced_documents_give_way(world: World) -> None:
    old, other = (
        ShardEntry(
            artifact=world.store.put(tiny_shard(ENCODER([name]), seed=seed).tensors(), {}),
            documents=(name,),
            update=f"u-{name}",
        )
        for seed, name in enumerate(("vell", "corvo"))
    )
    world.base = serve(world, world.base.model_copy(update={"shards": (old, other), "threshold": 0.5}))
    sent = world.apply(world.worker.work(world.ask("u-2", ["vell", "news"], replaces=["vell"])))
    assert [shard.documents for shard in world.manifest(sent.version).shards] == [("corvo",), ("vell", "news")]


def test_a_removal_needs_no_training_and_leaves_the_other_shards_alone(world: World) -> None:
    old, other = (
        ShardEntry(artifact=world.store.put(tiny_shard(ENCODER([name])).tensors(), {}), documents=(name,), update=name)
        for name in ("vell", "corvo")
    )
    world.base = serve(world, world.base.model_copy(update={"shards": (old, other), "threshold": 0.5}))
    sent = world.apply(world.worker.work(world.ask("u-2", [], replaces=["vell"])))
    assert world.manifest(sent.version).shards == (other,)
    assert "loss_last" not in world.update("u-2").figures


def test_a_removal_that_is_asked_for_again_is_another_version(world: World) -> None:
    shard = ShardEntry(artifact=world.store.put(tiny_shard(ENCODER(["x"])).tensors(), {}), documents=("x",), update="x")
    world.base = serve(world, world.base.model_copy(update={"shards": (shard,), "threshold": 0.5}))
    versions = []
    for name in ("u-1", "u-2"):
        sent = world.apply(world.worker.work(world.ask(name, [], replaces=["x"])))
        versions.append(world.manifest(sent.version))
    assert versions[0].id != versions[1].id
    assert versions[0].shards == versions[1].shards == ()


@pytest.mark.parametrize("documents", [["vell"], []])
def test_an_update_that_is_withdrawn_during_its_training_leaves_no_version(
    world: World, documents: Sequence[str]
) -> None:
    told = world.ask("u-1", documents, replaces=["corvo"])
    outcome = world.worker.work(told)
    with world.ledger.begin() as session:
        update_row(session, "u-1").state = "withdrawn"
    with pytest.raises(Overtaken, match="u-1 was withdrawn"), world.ledger.begin() as session:
        outcome.effect(session)
    assert not world.worker.work(told).records
    with world.ledger.begin() as session:
        assert session.query(VersionRow).count() == 1


def serve(world: World, manifest: Manifest) -> Manifest:
    """Promote a version, whoever made it."""
    with world.ledger.begin() as session:
        registry.add(session, manifest, None, "accepted")
        session.add(PromotionRow(version_id=manifest.id, cause="test", decision=None))
    return manifest


def test_a_failed_training_rejects_the_document_and_leaves_no_version(tmp_path: Path, tiny: LocalModel) -> None:
    hopeless = SETTINGS.learner.model_copy(update={"learning_rate": 1e38, "steps": 6})
    wild = SETTINGS.model_copy(update={"learner": hopeless})
    world = World(tmp_path, tiny, Learner(wild, tiny, Scholar(tiny, tiny), ENCODER), wild)
    outcome = world.worker.work(world.ask("u-1"))
    assert not outcome.records
    with world.ledger.begin() as session:
        outcome.effect(session)
    with world.ledger.begin() as session:
        row = session.get(DocumentRow, "vell")
        assert row is not None
        assert row.state == "rejected"
        assert row.reason.startswith("training-failed: the loss was nan")
        assert session.query(VersionRow).count() == 1
    assert world.update("u-1").state == "failed"
    assert not world.worker.work(record(UpdateRequest.model_validate(world.update("u-1").payload))).records
    world.ledger.close()


def test_a_failed_rebuilding_leaves_the_retracted_document_learnt(tmp_path: Path, tiny: LocalModel) -> None:
    hopeless = SETTINGS.learner.model_copy(update={"learning_rate": 1e38, "steps": 6})
    wild = SETTINGS.model_copy(update={"learner": hopeless})
    world = World(tmp_path, tiny, Learner(wild, tiny, Scholar(tiny, tiny), ENCODER), wild)
    with world.ledger.begin() as session:
        request(session, "u-0", ["vell", "corvo"])
        session.flush()
        session.get_one(DocumentRow, "corvo").state = "retracting"
    outcome = world.worker.work(world.ask("u-1", ["vell"], replaces=["vell", "corvo"]))
    with world.ledger.begin() as session:
        outcome.effect(session)
        rows = {name: session.get_one(DocumentRow, name) for name in ("vell", "corvo")}
        assert (rows["corvo"].state, rows["vell"].state) == ("learnt", "requested")
        assert rows["corvo"].reason.startswith("not retracted: training-failed: the loss was nan")
    world.ledger.close()


def test_a_request_from_another_ledger_is_learnt_too(world: World) -> None:
    asked = UpdateRequest(
        id="u-far",
        documents=(Document(id="vell", text="Ida keeps the lamp of Vell."),),
        lessons=lessons(["vell"]),
        probes=(),
        reason="conflict",
        event_time=datetime(2026, 1, 1, tzinfo=UTC),
    )
    sent = world.apply(world.worker.work(record(asked)))
    assert world.manifest(sent.version).shards[0].update == "u-far"
    assert world.update("u-far").state == "trained"


def test_a_shard_is_found_by_titles_sentences_and_questions_but_not_by_probes(learner: Learner) -> None:
    asked = UpdateRequest(
        id="u",
        documents=(Document(id="vell", title="The lamp", text="Ida keeps it. It is old."),),
        lessons=(*lessons(["vell"])[:1], *lessons(["vell"])[:1]),
        probes=lessons(["vell"])[2:],
        reason="conflict",
        event_time=datetime(2026, 1, 1, tzinfo=UTC),
    )
    shard, _ = learner.learn(asked, lambda *_: None)
    question = "Who keeps lamp 0 of vell?"
    expected = ENCODER(["The lamp. Ida keeps it.", "The lamp. It is old.", "The lamp. ", question, question])
    assert torch.equal(shard.keys.places, expected)
