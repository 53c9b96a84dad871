"""What verdicts and rollbacks leave in the ledger, also when they come twice or at the wrong moment."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gate import registry
from gate.promotion import carry_out, rollback
from gate.registry import Refused, UnknownVersion
from lmt2.errors import StorageError
from lmt2.events import Verdict
from lmt2.ledger import DecisionRow, DocumentRow, Ledger, PromotionRow, UpdateRow, VersionRow, desired_version
from memory.versions import Manifest, untouched
from tests.support.gate import candidate, decided, new_ledger, request, ruling

BASE = untouched("b" * 64)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = new_ledger(tmp_path, BASE)
    yield made
    made.close()


def served(ledger: Ledger) -> str | None:
    with ledger.begin() as session:
        return desired_version(session)


def states(ledger: Ledger) -> dict[str, str]:
    with ledger.begin() as session:
        return {row.id: row.state for row in session.scalars(select(DocumentRow))}


def count(ledger: Ledger, table: type[PromotionRow | DecisionRow]) -> int:
    with ledger.begin() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_an_accepted_version_is_promoted(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    assert served(ledger) == one.id
    assert states(ledger) == {"doc-one": "learnt"}
    with ledger.begin() as session:
        assert registry.version(session, one.id).state == "accepted"
        update = session.get(UpdateRow, "u-one")
        assert update is not None
        assert update.state == "decided"


@pytest.mark.parametrize(
    ("verdict", "state", "reason"),
    [
        ("reject", "rejected", "forgets: 5 facts gone"),
        ("inconclusive", "inconclusive", "inconclusive: needs-more-anchors: 4 probes"),
    ],
)
def test_any_other_version_is_not(ledger: Ledger, verdict: Verdict, state: str, reason: str) -> None:
    one = decided(ledger, BASE, "one")
    two = decided(ledger, one, "two", verdict)
    assert served(ledger) == one.id
    with ledger.begin() as session:
        assert registry.version(session, two.id).state == state
        document = session.get(DocumentRow, "doc-two")
        assert document is not None
        assert (document.state, document.reason) == ("rejected", reason)


def test_deciding_twice_is_deciding_once(ledger: Ledger) -> None:
    with ledger.begin() as session:
        asked = request(session, "u-one", ["doc-one"])
        one = candidate(session, BASE, asked, "one")
    outcomes = []
    verdicts: tuple[Verdict, ...] = ("accept", "accept", "reject")
    for verdict in verdicts:
        with ledger.begin() as session:
            outcomes.append(carry_out(session, ruling(one, asked, verdict)))
    assert outcomes == [True, False, False]
    assert (count(ledger, PromotionRow), count(ledger, DecisionRow)) == (2, 1)  # the base was the first
    assert states(ledger) == {"doc-one": "learnt"}


def test_a_rejection_leaves_what_was_known_before(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    with ledger.begin() as session:
        asked = request(session, "u-new", ["doc-one", "doc-new"], replaces=["doc-one"])
        two = candidate(session, one, asked, "new")
    with ledger.begin() as session:
        carry_out(session, ruling(two, asked, "reject"))
    assert states(ledger) == {"doc-one": "learnt", "doc-new": "rejected"}


def test_a_version_examined_on_an_old_parent_is_not_promoted(ledger: Ledger) -> None:
    with ledger.begin() as session:
        asked = request(session, "u-late", ["doc-late"])
        late = candidate(session, BASE, asked, "late")
    one = decided(ledger, BASE, "one")
    with pytest.raises(StorageError, match="another version was promoted"), ledger.begin() as session:
        carry_out(session, ruling(late, asked, "accept"))
    assert served(ledger) == one.id
    assert states(ledger) == {"doc-late": "requested", "doc-one": "learnt"}
    assert count(ledger, DecisionRow) == 1


def test_of_two_at_the_same_moment_one_wins_and_the_other_is_told(ledger: Ledger) -> None:
    with ledger.begin() as session:
        asked = [request(session, f"u-{name}", [f"doc-{name}"]) for name in ("left", "right")]
        made = [candidate(session, BASE, update, update.id) for update in asked]
    at_once = threading.Barrier(2)

    def decide(number: int) -> bool:
        at_once.wait()
        try:
            with ledger.begin() as session:
                return carry_out(session, ruling(made[number], asked[number], "accept"))
        except StorageError:
            return False

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(decide, range(2)))
    assert sorted(outcomes) == [False, True]
    assert served(ledger) == made[outcomes.index(True)].id
    assert sorted(states(ledger).values()) == ["learnt", "requested"]


def test_a_rebased_version_takes_over_the_update(ledger: Ledger) -> None:
    with ledger.begin() as session:
        asked = request(session, "u-late", ["doc-late"])
        late = candidate(session, BASE, asked, "late")
    one = decided(ledger, BASE, "one")
    examined = one.replace((), late.shards[0], 0.5)
    for _ in range(2):
        with ledger.begin() as session:
            carry_out(session, ruling(examined, asked, "accept", made=late))
    assert served(ledger) == examined.id
    with ledger.begin() as session:
        stale, fresh = registry.version(session, late.id), registry.version(session, examined.id)
        assert (stale.state, stale.update_id) == ("inconclusive", None)
        assert (fresh.state, fresh.update_id) == ("accepted", "u-late")
        note = session.get(DecisionRow, late.id)
        assert note is not None
        assert (note.reason, note.report["examined_as"]) == ("rebased", examined.id)


def test_rollback_goes_down_the_line_and_back_up_by_name(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    two = decided(ledger, one, "two")
    for expected, learnt in ((one.id, {"doc-one"}), (BASE.id, set())):
        with ledger.begin() as session:
            assert rollback(session).version_id == expected
        assert served(ledger) == expected
        assert {name for name, state in states(ledger).items() if state == "learnt"} == learnt
    with pytest.raises(Refused, match="no version before"), ledger.begin() as session:
        rollback(session)
    with ledger.begin() as session:
        row = rollback(session, two.id)
        assert (row.version_id, row.cause, row.decision) == (two.id, "rollback", None)
    assert states(ledger) == {"doc-one": "learnt", "doc-two": "learnt"}


def test_rollback_refuses(ledger: Ledger) -> None:
    with pytest.raises(Refused, match="no version before"), ledger.begin() as session:
        rollback(session)
    one = decided(ledger, BASE, "one")
    bad = decided(ledger, one, "bad", "reject")
    for name, kind, text in (
        (bad.id, Refused, "is rejected"),
        (one.id, Refused, "already"),
        ("v-nothing", UnknownVersion, "no version"),
    ):
        with pytest.raises(kind, match=text), ledger.begin() as session:
            rollback(session, name)
    assert served(ledger) == one.id


def test_a_retracted_document_stays_retracted(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    with ledger.begin() as session:
        row = session.get(DocumentRow, "doc-one")
        assert row is not None
        row.state = "retracted"
    decided(ledger, one, "two")
    with ledger.begin() as session:
        rollback(session, BASE.id)
    assert states(ledger)["doc-one"] == "retracted"


def test_a_version_that_teaches_what_was_retracted_is_not_served_again(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    with ledger.begin() as session:
        rollback(session)
        session.get_one(DocumentRow, "doc-one").state = "retracted"
    with pytest.raises(Refused, match=r"retracted since \(doc-one\)"), ledger.begin() as session:
        rollback(session, one.id)
    assert served(ledger) == BASE.id


def test_only_a_candidate_can_be_decided(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    with pytest.raises(Refused, match="only a candidate"), ledger.begin() as session:
        registry.settle(registry.version(session, one.id), "reject")


def score(ledger: Ledger, manifest: Manifest, right: int, fingerprint: str = "f") -> None:
    with ledger.begin() as session:
        row = session.get(DecisionRow, manifest.id)
        assert row is not None
        row.report = {"scores": {"general_after": right, "general": 100}, "fingerprint": fingerprint}


def test_twenty_small_declines_do_not_add_up(ledger: Ledger) -> None:
    """The pinned best stays at the height of the line, however far the present version has come down."""
    line = [BASE]
    for n in range(5):
        line.append(decided(ledger, line[-1], str(n)))
        score(ledger, line[-1], 80 - n)
    present = line[-1].id
    with ledger.begin() as session:
        assert registry.pinned_best(session, present, {BASE.id: 0.7, present: 0.76}, "f") == line[1].id
        assert registry.pinned_best(session, present, {BASE.id: 0.9, present: 0.76}, "f") == BASE.id
        assert (
            registry.pinned_best(session, present, {BASE.id: 0.7, present: 0.80}, "f") == present
        )  # of equals the newest
        assert registry.pinned_best(session, present, {BASE.id: 0.7, present: 0.76}, "other") == present


def test_a_version_that_was_rolled_back_is_not_pinned(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    two = decided(ledger, one, "two")
    score(ledger, two, 99)
    with ledger.begin() as session:
        rollback(session)
        assert registry.pinned_best(session, one.id, {BASE.id: 0.5, one.id: 0.6}, "f") == one.id


def test_explain_tells_who_taught_what(ledger: Ledger) -> None:
    one = decided(ledger, BASE, "one")
    two = decided(ledger, one, "two")
    with ledger.begin() as session:
        told = registry.explain(session, two.id)
        assert told["lineage"] == [two.id, one.id, BASE.id]
        assert [d["id"] for shard in told["shards"] for d in shard["documents"]] == ["doc-one", "doc-two"]
        assert (told["is_served"], told["decision"]["verdict"]) == (True, "accept")
        assert [v["id"] for v in registry.versions(session) if v["is_served"]] == [two.id]
        assert {d["version"] for d in registry.decisions(session)} == {one.id, two.id}
        assert session.get(VersionRow, BASE.id) is not None
