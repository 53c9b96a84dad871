"""The gate at work on a tiny model: it finds what a shard really does, whatever the learner says of it.

The right answer to a general question is here what the base says, and the right answer to a probe what a version
with the honest shard says: then base and shard are as good as they can be, and every change is a loss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gate import registry
from gate.examination import ANSWERS
from gate.promotion import carry_out, rollback
from gate.worker import GateWorker
from lmt2.artifacts import ArtifactStore
from lmt2.config import Settings
from lmt2.data import GeneralQuestion
from lmt2.errors import EventError, Overtaken
from lmt2.events import Decision, UpdateRequest, decode
from lmt2.ledger import (
    DecisionRow,
    DocumentRow,
    Ledger,
    LessonRow,
    PromotionRow,
    UpdateRow,
    VersionRow,
    desired_version,
)
from lmt2.models.base import Conversation, Sampling
from lmt2.models.local import LocalModel
from lmt2.scoring import hit
from lmt2.stage import Outcome
from lmt2.study.prompts import user
from lmt2.transport.base import Record
from memory.shards import Shard
from memory.versioned import base_fingerprint, question_of
from memory.versions import Manifest, untouched
from tests.support.gate import candidate, new_ledger, probe, record, request, ruling
from tests.support.tiny import WordEncoder, tiny_model, tiny_shard, tiny_version
from tests.support.wire import assert_published

ENCODER = WordEncoder()
COMMON = [f"colour planet river number {n} of the world" for n in range(60)]
PROBES = {name: [f"who keeps {name} lamp {n}" for n in range(8)] for name in ("harbour", "mill")}


class Recording(LocalModel):
    """Remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, dtype="float32")
        self.asked: list[str] = []

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        self.asked += [question_of(conversation) for conversation in conversations]
        return super().generate(conversations, sampling)


@pytest.fixture(scope="module")
def model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return Recording(tiny_model(tmp_path_factory.mktemp("tiny")))


@dataclass
class World:
    """A gate with its ledger and store, and a learner's hands."""

    ledger: Ledger
    store: ArtifactStore
    model: Recording
    gate: GateWorker
    base: Manifest

    def offer(self, name: str, parent: Manifest, shard: Shard, rebuilds: Sequence[str] = ()) -> tuple[Manifest, Record]:
        """A document, its update, and a candidate that carries a shard for it and for those that it rebuilds."""
        probes = [
            probe(question, answer, f"doc-{known}")
            for known in (*rebuilds, name)
            for question, answer in said(self.model, self.store, honest(known), PROBES[known]).items()
        ]
        gone = [f"doc-{known}" for known in rebuilds]
        with self.ledger.begin() as session:
            asked = request(session, f"u-{name}", [*gone, f"doc-{name}"], probes, gone)
            manifest = candidate(session, parent, asked, self.store.put(shard.tensors(), {}))
        return manifest, record(manifest, asked.id)

    def remove(self, name: str, parent: Manifest, shard: Shard | None = None, keeps: Sequence[str] = ()) -> Record:
        """A candidate without the shard of a document, or with one rebuilt for those that it was taught with."""
        kept = [f"doc-{known}" for known in keeps]
        with self.ledger.begin() as session:
            session.get_one(DocumentRow, f"doc-{name}").state = "retracting"
            taught = session.get_one(UpdateRow, parent.shards[0].update)
            known = UpdateRequest.model_validate(taught.payload).probes
            probes = [p for p in known if p.document in kept]
            session.add_all(
                LessonRow(document_id=p.document, payload=p.model_dump(mode="json"), held_out=True)
                for p in known
                if p.document == f"doc-{name}"
            )
            asked = request(session, f"u-without-{name}", kept, probes, replaces=[*kept, f"doc-{name}"])
            manifest = candidate(session, parent, asked, self.store.put(shard.tensors(), {}) if shard else "")
        return record(manifest, asked.id)

    def decide(self, told: Record) -> Decision:
        """The gate's decision on a record, made durable."""
        outcome = self.gate.work(told)
        self.apply(outcome)
        assert_published(outcome.records[0].value)
        return decode(outcome.records[0].value, Decision)[0]

    def apply(self, outcome: Outcome) -> None:
        with self.ledger.begin() as session:
            outcome.effect(session)

    def served(self) -> str | None:
        with self.ledger.begin() as session:
            return desired_version(session)

    def document(self, name: str) -> tuple[str, str]:
        with self.ledger.begin() as session:
            row = session.get(DocumentRow, f"doc-{name}")
            assert row is not None
            return row.state, row.reason


@pytest.fixture(scope="module")
def common(model: Recording) -> list[GeneralQuestion]:
    answers = model.generate([[user(question)] for question in COMMON], ANSWERS)
    found = [GeneralQuestion(q, (a,), "general") for q, a in zip(COMMON, answers, strict=True) if hit(a, (a,))]
    assert len(found) >= 52  # as many as non-inferiority takes
    return found


@pytest.fixture
def world(model: Recording, common: list[GeneralQuestion], tmp_path: Path) -> Iterator[World]:
    store, base = ArtifactStore(str(tmp_path / "artifacts")), untouched(base_fingerprint(model.folder))
    ledger = new_ledger(tmp_path, base)
    gate = GateWorker(Settings(home=tmp_path), ledger, store, model, ENCODER, common)
    yield World(ledger, store, model, gate, base)
    ledger.close()


def honest(name: str) -> Shard:
    """A shard that changes the answers to its own probes and is asked for nothing else."""
    return tiny_shard(ENCODER(PROBES[name]), seed=len(name), scale=1.0)


def greedy(name: str) -> Shard:
    """The same with keys that catch general questions, too."""
    return tiny_shard(ENCODER([*PROBES[name], *COMMON]), seed=len(name), scale=1.0)


def idle(name: str) -> Shard:
    """A shard that adds nothing."""
    return tiny_shard(ENCODER(PROBES[name]), scale=0.0)


def said(model: Recording, store: ArtifactStore, shard: Shard, questions: Sequence[str]) -> dict[str, str]:
    version = tiny_version(model, store, [shard])
    return dict(zip(questions, version.generate([[user(q)] for q in questions], ANSWERS), strict=True))


def test_an_honest_shard_is_promoted(world: World) -> None:
    manifest, told = world.offer("harbour", world.base, honest("harbour"))
    decision = world.decide(told)
    assert (decision.verdict, decision.reason, decision.version) == ("accept", "accepted", manifest.id)
    assert decision.scores["probes_after"] == 8
    assert decision.scores["committee"] == 1.0
    assert world.served() == manifest.id
    assert world.document("harbour") == ("learnt", "")


def test_a_shard_that_teaches_nothing_is_rejected(world: World) -> None:
    _, told = world.offer("harbour", world.base, idle("harbour"))
    assert world.decide(told).reason == "learnt-too-little"
    assert world.served() == world.base.id
    assert world.document("harbour")[0] == "rejected"


def test_a_shard_that_catches_general_questions_is_rejected(world: World) -> None:
    manifest, told = world.offer("harbour", world.base, greedy("harbour"))
    decision = world.decide(told)
    assert (decision.verdict, decision.reason) == ("reject", "harms-general")
    assert decision.scores["probes_after"] == 8  # it did learn
    assert decision.scores["committee"] < 0.6
    assert world.served() == world.base.id
    with world.ledger.begin() as session:
        row = session.get(DecisionRow, manifest.id)
        assert row is not None
        assert {lost["question"] for lost in row.report["lost"]} <= set(COMMON)


def test_a_rebuilt_shard_that_forgot_is_rejected(world: World) -> None:
    """An update that replaces the shard of an earlier document must still know what the request says holds."""
    first, told = world.offer("harbour", world.base, honest("harbour"))
    world.decide(told)
    both = [*PROBES["mill"], *PROBES["harbour"]]
    forgetful = tiny_shard(ENCODER(both), seed=len("mill"), scale=1.0)
    rebuilt, told = world.offer("mill", first, forgetful, rebuilds=["harbour"])
    decision = world.decide(told)
    assert len(rebuilt.shards) == 1
    assert (decision.verdict, decision.reason) == ("reject", "forgets")
    assert (decision.scores["probes"], decision.scores["probes_after"]) == (8, 8)
    assert (decision.scores["retention"], decision.scores["retention_before"]) == (8, 8)
    assert world.served() == first.id
    assert (world.document("harbour")[0], world.document("mill")[0]) == ("learnt", "rejected")


def test_a_removal_is_judged_by_what_stays(world: World) -> None:
    first, told = world.offer("harbour", world.base, honest("harbour"))
    world.decide(told)
    _, told = world.offer("mill", first, honest("mill"))
    world.decide(told)
    with world.ledger.begin() as session:
        present = registry.manifest_of(registry.present(session))
    decision = world.decide(world.remove("harbour", present))
    assert (decision.verdict, decision.reason) == ("accept", "accepted")
    assert (decision.scores["probes_before"], decision.scores["probes_after"]) == (8, 0)
    assert (decision.scores["retention"], decision.scores["retention_after"]) == (8, 8)
    assert (world.document("harbour")[0], world.document("mill")[0]) == ("retracted", "learnt")
    with world.ledger.begin() as session:
        row = session.get_one(DecisionRow, decision.version)
        assert row.report["detail"].startswith("8 → 0 of 8 probes of what is retracted; 0 of")
        assert row.report["pinned_best"] == present.id


def test_a_shard_rebuilt_without_a_document_must_know_the_others(world: World) -> None:
    first, told = world.offer("harbour", world.base, honest("harbour"))
    world.decide(told)
    both = tiny_shard(ENCODER([*PROBES["mill"], *PROBES["harbour"]]), seed=len("harbour"), scale=1.0)
    present, told = world.offer("mill", first, both, rebuilds=["harbour"])
    with world.ledger.begin() as session:
        carry_out(session, ruling(present, asked_of(session, "u-mill"), "accept"))
    forgetful = tiny_shard(ENCODER(PROBES["harbour"]), seed=77, scale=1.0)
    decision = world.decide(world.remove("mill", present, forgetful, keeps=["harbour"]))
    assert (decision.verdict, decision.reason) == ("reject", "forgets")
    assert world.served() == present.id
    state, reason = world.document("mill")
    assert (state, reason[:30]) == ("learnt", "not retracted: forgets: 8 → 0 ")
    assert world.document("harbour")[0] == "learnt"


def asked_of(session: Session, update: str) -> UpdateRequest:
    return UpdateRequest.model_validate(session.get_one(UpdateRow, update).payload)


def test_a_removal_with_nothing_left_to_remove_takes_no_other_document_along(world: World) -> None:
    """Another update was quicker, and its shard doesn't teach the retracted document any more."""
    first, told = world.offer("harbour", world.base, honest("harbour"))
    world.decide(told)
    removal = world.remove("harbour", first)
    with world.ledger.begin() as session:
        rollback(session)
    _, told = world.offer("mill", world.base, honest("mill"))
    served = world.decide(told).version
    decision = world.decide(removal)
    assert decision.verdict == "accept"
    assert (world.document("harbour")[0], world.document("mill")[0]) == ("retracted", "learnt")
    with world.ledger.begin() as session:
        shards = [registry.manifest_of(registry.version(session, v)).shards for v in (served, decision.version)]
    assert shards[0] == shards[1]


def test_a_candidate_of_a_withdrawn_update_is_not_examined(world: World) -> None:
    manifest, told = world.offer("harbour", world.base, honest("harbour"))
    late = world.gate.work(told)
    with world.ledger.begin() as session:
        session.get_one(UpdateRow, "u-harbour").state = "withdrawn"
        session.get_one(VersionRow, manifest.id).state = "withdrawn"
    with pytest.raises(Overtaken, match="u-harbour was withdrawn"):
        world.apply(late)
    world.model.asked.clear()
    assert world.gate.work(told).records == ()
    assert not world.model.asked
    assert world.served() == world.base.id


def test_a_damaged_shard_is_rejected(world: World) -> None:
    broken = honest("harbour")
    broken.a[1][0, 0] = float("nan")
    _, told = world.offer("harbour", world.base, broken)
    decision = world.decide(told)
    assert (decision.verdict, decision.reason, decision.scores) == ("reject", "error", {})
    assert world.served() == world.base.id


def test_a_record_that_comes_again_changes_nothing(world: World) -> None:
    _, told = world.offer("harbour", world.base, honest("harbour"))
    first = world.gate.work(told)
    world.apply(first)
    world.apply(first)
    again = world.gate.work(told)
    world.apply(again)
    assert again.records == ()
    with world.ledger.begin() as session:
        assert len(list(session.scalars(select(PromotionRow)))) == 2  # the base was the first


def test_a_candidate_of_an_old_parent_is_rebased(world: World) -> None:
    """Two candidates of one parent: both documents end up known."""
    _, first = world.offer("harbour", world.base, honest("harbour"))
    late, second = world.offer("mill", world.base, honest("mill"))
    world.decide(first)
    decision = world.decide(second)
    assert decision.verdict == "accept"
    assert decision.version != late.id
    assert decision.scores["retention_after"] == 8
    assert (world.document("harbour")[0], world.document("mill")[0]) == ("learnt", "learnt")
    with world.ledger.begin() as session:
        row = session.get(VersionRow, decision.version)
        assert row is not None
        assert [entry["update"] for entry in row.manifest["shards"]] == ["u-harbour", "u-mill"]
    assert world.gate.work(second).records == ()


def test_a_question_whose_route_did_not_change_is_not_generated_again(world: World) -> None:
    first, told = world.offer("harbour", world.base, honest("harbour"))
    world.decide(told)
    _, told = world.offer("mill", first, honest("mill"))
    world.model.asked.clear()
    world.decide(told)
    assert set(world.model.asked) == set(PROBES["mill"])


def test_a_candidate_of_a_version_that_was_rolled_back_is_rebased_too(world: World) -> None:
    first, told = world.offer("harbour", world.base, honest("harbour"))
    world.decide(told)
    _, late = world.offer("mill", first, honest("mill"))
    with world.ledger.begin() as session:
        rollback(session)
    decision = world.decide(late)
    assert decision.verdict == "accept"
    assert world.document("harbour")[0] == "rejected"
    with world.ledger.begin() as session:
        row = session.get(VersionRow, decision.version)
        assert row is not None
        assert [entry["update"] for entry in row.manifest["shards"]] == ["u-mill"]


def test_an_update_that_a_newer_one_was_quicker_than_teaches_nothing_again(world: World) -> None:
    """The correction of a document is decided before the document's own update, which another partition had."""
    _, late = world.offer("harbour", world.base, honest("harbour"))
    both = tiny_shard(ENCODER([*PROBES["mill"], *PROBES["harbour"]]), seed=len("mill"), scale=1.0)
    served, _ = world.offer("mill", world.base, both, rebuilds=["harbour"])
    with world.ledger.begin() as session:
        carry_out(session, ruling(served, asked_of(session, "u-mill"), "accept"))
    world.model.asked.clear()
    decision = world.decide(late)
    assert (decision.verdict, decision.reason) == ("inconclusive", "overtaken")
    assert world.served() == served.id
    assert (world.document("harbour")[0], world.document("mill")[0]) == ("learnt", "learnt")
    assert not world.model.asked, "nothing to examine"


def test_an_update_does_not_take_along_what_a_newer_one_taught(world: World) -> None:
    """Two documents correct the same one, and neither update knows of the other."""
    first, told = world.offer("harbour", world.base, honest("harbour"))
    world.decide(told)
    both = tiny_shard(ENCODER([*PROBES["mill"], *PROBES["harbour"]]), seed=len("mill"), scale=1.0)
    served, _ = world.offer("mill", first, both, rebuilds=["harbour"])
    with world.ledger.begin() as session:
        carry_out(session, ruling(served, asked_of(session, "u-mill"), "accept"))
        asked = request(session, "u-pier", ["doc-harbour", "doc-pier"], replaces=["doc-harbour"])
        late = candidate(session, first, asked, world.store.put(honest("harbour").tensors(), {}))
    decision = world.decide(record(late, asked.id))
    assert (decision.verdict, decision.reason) == ("inconclusive", "overtaken")
    with world.ledger.begin() as session:
        assert "doc-mill would be lost" in session.get_one(DecisionRow, decision.version).report["detail"]
    assert world.served() == served.id
    assert (world.document("mill")[0], world.document("pier")[0]) == ("learnt", "rejected")


def test_an_unknown_candidate_is_a_dead_letter(world: World) -> None:
    with pytest.raises(EventError, match="no version"):
        world.gate.work(record(world.base.replace((), None, 0.1), "u-none"))
