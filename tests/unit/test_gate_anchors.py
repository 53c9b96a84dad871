"""Which questions a candidate is examined on, and which never."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from gate.anchors import Anchors, choose, odd_general
from gate.promotion import carry_out, rollback
from lmt2.config import GateSettings
from lmt2.data import GeneralQuestion, general
from lmt2.events import Lesson, UpdateRequest
from lmt2.ledger import DocumentRow, Ledger, LessonRow
from memory.versions import Manifest, untouched
from tests.support.gate import candidate, new_ledger, probe, request, ruling

BASE = untouched("b" * 64)
COMMON = [GeneralQuestion(f"common {n}", ("yes",), "general") for n in range(20)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = new_ledger(tmp_path, BASE)
    yield made
    made.close()


def probes(document: str, answer: str = "old", number: int = 6) -> list[Lesson]:
    return [probe(f"{document} {n}", answer, f"doc-{document}") for n in range(number)]


def learn(session: Session, parent: Manifest, name: str) -> Manifest:
    asked = request(session, f"u-{name}", [f"doc-{name}"], probes(name))
    made = candidate(session, parent, asked, name)
    session.flush()
    carry_out(session, ruling(made, asked, "accept"))
    return made


def ask(session: Session, asked: UpdateRequest, present: Manifest, **limits: int) -> Anchors:
    return choose(session, asked, present, COMMON, GateSettings(**limits))


def documents(anchors: Anchors) -> set[str]:
    return {anchor.document for anchor in anchors.retention}


def test_probes_of_the_update_and_retention_of_the_rest(ledger: Ledger) -> None:
    with ledger.begin() as session:
        two = learn(session, learn(session, BASE, "one"), "two")
        found = ask(session, request(session, "u-new", ["doc-new"], probes("new")), two)
    assert [anchor.question for anchor in found.probes] == [f"new {n}" for n in range(6)]
    assert documents(found) == {"doc-one", "doc-two"}
    assert (len(found.retention), len(found.general), found.unused) == (12, 20, 0)


def test_what_was_rolled_back_is_not_asked(ledger: Ledger) -> None:
    with ledger.begin() as session:
        one = learn(session, BASE, "one")
        learn(session, one, "two")
        rollback(session)
        found = ask(session, request(session, "u-new", ["doc-new"], probes("new")), one)
    assert documents(found) == {"doc-one"}


def test_of_a_rebuilt_shard_what_still_holds_is_retention_and_what_changed_is_a_probe(ledger: Ledger) -> None:
    with ledger.begin() as session:
        one = learn(session, BASE, "one")
        revised: Sequence[Lesson] = [*probes("one")[:4], probe("one 4", "new", "doc-one"), *probes("new")]
        asked = request(session, "u-new", ["doc-one", "doc-new"], revised, replaces=["doc-one"])
        found = ask(session, asked, one)
    assert [anchor.question for anchor in found.retention] == ["one 0", "one 1", "one 2", "one 3"]
    assert [anchor.question for anchor in found.probes][:2] == ["one 4", "new 0"]


def test_what_is_retracted_is_asked_for_the_record_and_nobodys_anchor(ledger: Ledger) -> None:
    with ledger.begin() as session:
        two = learn(session, learn(session, BASE, "one"), "two")
        session.get_one(DocumentRow, "doc-one").state = "retracting"
        session.add_all(
            LessonRow(document_id="doc-one", payload=x.model_dump(mode="json"), held_out=True) for x in probes("one")
        )
        removal = ask(session, request(session, "u-gone", [], replaces=["doc-one"]), two)
        another = ask(session, request(session, "u-new", ["doc-new"], probes("new")), two)
    assert removal.is_removal
    assert {anchor.document for anchor in removal.probes} == {"doc-one"}
    assert (documents(removal), documents(another)) == ({"doc-two"}, {"doc-two"})


def test_training_questions_are_never_asked(ledger: Ledger) -> None:
    taught = [probe(question, "old", "doc-new") for question in ("new 0", "one 0", "common 0")]
    with ledger.begin() as session:
        one = learn(session, BASE, "one")
        asked = request(session, "u-new", ["doc-new"], probes("new")).model_copy(update={"lessons": tuple(taught)})
        found = ask(session, asked, one)
    questions = {anchor.question for anchor in (*found.probes, *found.retention, *found.general)}
    assert not questions & {"new 0", "one 0", "common 0"}
    assert (len(found.probes), len(found.retention), len(found.general)) == (5, 5, 19)


def test_the_general_half_of_the_gate_is_not_the_learners() -> None:
    shipped = general()
    assert {g.q for g in odd_general()} == {g.q for g in shipped[1::2]}
    assert not {g.q for g in odd_general()} & {g.q for g in shipped[::2]}


def test_limits_leave_out_by_lot_the_same_for_general_and_anew_for_retention(ledger: Ledger) -> None:
    with ledger.begin() as session:
        two = learn(session, learn(session, BASE, "one"), "two")
        asked = [request(session, name, ["doc-new"]) for name in ("u-a", "u-b")]
        first, second, again = (
            ask(session, update, two, retention_anchors=5, general_anchors=8) for update in (*asked, asked[0])
        )
    assert (len(first.retention), len(first.general), first.unused) == (5, 8, 7 + 12)
    assert first.general == second.general
    assert first.fingerprint == second.fingerprint
    assert first.retention != second.retention
    assert first.retention == again.retention
