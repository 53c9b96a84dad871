"""A retraction, wherever its document is: on its way in, served alone or with others, kept out, or unheard of."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from gate.promotion import rollback
from lmt2.errors import EventError, Overtaken
from lmt2.events import UpdateRequest
from lmt2.follow import follow_retraction
from lmt2.ledger import DocumentRow, LessonRow, UpdateRow, VersionRow
from memory.versions import Manifest
from tests.support.consuming import NEWS, World, checked, event, retraction

THIRD = "The Vell harbour was dredged in 1911. The Vell lighthouse has 412 steps, says Tom Hale."


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ledger.close()


def states(world: World) -> dict[str, str]:
    with world.ledger.begin() as session:
        return {row.id: row.state for row in session.scalars(select(DocumentRow))}


def answers(asked: UpdateRequest, document: str) -> set[str]:
    return {x.answer for x in (*checked(asked), *asked.probes) if x.document == document}


def served_pair(world: World) -> Manifest:
    """`vell`, learnt, and `news`, which corrects it, in one shard."""
    first = world.promote(world.ask(event()), world.base)
    return world.promote(world.ask(event("news", NEWS, supersedes="vell")), first)


def test_a_shard_of_its_own_goes_without_training(world: World) -> None:
    served = world.promote(world.ask(event()), world.base)
    (removal,) = world.retract("vell")
    assert (removal.documents, removal.lessons, removal.probes) == ((), (), ())
    assert (removal.replaces, removal.retracts, removal.reason) == (("vell",), ("vell",), "retracted")
    assert states(world) == {"vell": "retracting"}
    assert world.promote(removal, served).shards == ()
    assert states(world) == {"vell": "retracted"}


def test_a_correction_is_taken_out_of_the_common_shard_and_what_it_corrected_is_as_before(world: World) -> None:
    served = served_pair(world)
    (removal,) = world.retract("news")
    assert (removal.teaches, removal.replaces, removal.retracts) == (("vell",), ("vell", "news"), ("news",))
    assert answers(removal, "vell") == {"Ida Brandt", "412"}
    assert answers(removal, "news") == set()
    world.promote(removal, served)
    assert states(world) == {"vell": "learnt", "news": "retracted"}


def test_what_was_corrected_goes_and_the_correction_stays(world: World) -> None:
    served = served_pair(world)
    (removal,) = world.retract("vell")
    assert (removal.teaches, removal.retracts) == (("news",), ("vell",))
    assert answers(removal, "news") == {"Tom Hale", "1911"}
    world.promote(removal, served)
    assert states(world) == {"vell": "retracted", "news": "learnt"}


def test_two_documents_of_a_shard_retracted_one_after_the_other_both_go(world: World) -> None:
    served = served_pair(world)
    (first,) = world.retract("vell", offset=8)
    (both,) = world.retract("news", offset=9)
    assert world.update_state(first) == "withdrawn"
    assert (both.documents, set(both.retracts)) == ((), {"vell", "news"})
    world.promote(both, served)
    assert states(world) == {"vell": "retracted", "news": "retracted"}


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_retraction_overtakes_training_and_gate(world: World, is_trained: bool) -> None:
    asked = world.ask(event())
    made = world.train(asked, world.base) if is_trained else None
    assert world.retract("vell") == []
    assert (world.update_state(asked), states(world)) == ("withdrawn", {"vell": "retracted"})
    if made:
        with pytest.raises(Overtaken, match="withdrawn"):
            world.decide(asked, made)
        with world.ledger.begin() as session:
            assert session.get_one(VersionRow, made.id).state == "withdrawn"
    assert states(world) == {"vell": "retracted"}


def test_a_correction_that_is_retracted_on_its_way_in_leaves_what_is_served(world: World) -> None:
    served = world.promote(world.ask(event()), world.base)
    asked = world.ask(event("news", NEWS, supersedes="vell"))
    assert world.retract("news") == []
    assert (world.update_state(asked), states(world)) == ("withdrawn", {"vell": "learnt", "news": "retracted"})
    again = world.ask(event("third", THIRD, supersedes="vell"))
    assert again.teaches == ("vell", "third")
    world.promote(again, served)


def test_another_document_that_waits_in_the_same_update_is_asked_for_again(world: World) -> None:
    served = world.promote(world.ask(event()), world.base)
    asked = world.ask(event("news", NEWS, supersedes="vell"))
    removal, again = world.retract("vell")
    assert (removal.documents, removal.retracts) == ((), ("vell",))
    assert (again.teaches, again.replaces, again.reason) == (("news",), (), "supersedes")
    assert answers(again, "news") == {"Tom Hale", "1911"}
    assert world.update_state(asked) == "withdrawn"
    without = world.promote(removal, served)
    world.promote(again, without)
    assert states(world) == {"vell": "retracted", "news": "learnt"}


def test_a_document_that_another_update_left_out_is_retracted(world: World) -> None:
    """The update that waits on top of the removal was quicker; the gate finds nothing left to remove."""
    served = served_pair(world)
    (removal,) = world.retract("news")
    quicker = world.ask(event("third", THIRD, supersedes="vell"))
    assert quicker.teaches == ("vell", "third")
    world.promote(quicker, served)
    assert states(world) == {"vell": "learnt", "news": "retracted", "third": "learnt"}
    assert world.retract("news", offset=9) == []
    assert world.update_state(removal) == "requested"


@pytest.mark.parametrize("state", ["known", "shadowed", "quarantined", "rejected", "released"])
def test_what_no_version_teaches_is_retracted_at_once(world: World, state: str) -> None:
    world.know_all()
    world.take(event())
    with world.ledger.begin() as session:
        session.get_one(DocumentRow, "vell").state = state
    assert world.retract("vell") == []
    assert states(world) == {"vell": "retracted"}


def test_an_unknown_document_is_a_dead_letter(world: World) -> None:
    with pytest.raises(EventError, match="no document vel"):
        world.worker.work(retraction("vel"))


def test_a_retraction_that_comes_again_changes_nothing(world: World) -> None:
    served = world.promote(world.ask(event()), world.base)
    (removal,) = world.retract("vell")
    assert world.retract("vell") == [], "while it is removed"
    world.promote(removal, served)
    assert world.retract("vell") == [], "when it is gone"
    assert world.count(UpdateRow) == 2


def test_a_refused_removal_leaves_the_document_as_it_was_and_may_be_asked_for_again(world: World) -> None:
    served = served_pair(world)
    (removal,) = world.retract("news")
    world.decide(removal, world.train(removal, served), "reject")
    assert states(world) == {"vell": "learnt", "news": "learnt"}
    refused = world.row("news")
    assert refused.reason == "not retracted: forgets: 5 facts gone"
    with world.ledger.begin() as session:
        told = follow_retraction(session, "news", since=refused.changed_at - timedelta(seconds=1))
        assert (told.is_decided, told.detail) == (True, refused.reason)
        assert not follow_retraction(session, "news", since=refused.changed_at).is_decided, "an earlier attempt"
    (again,) = world.retract("news", offset=9)
    assert again.id != removal.id
    world.promote(again, served)
    assert states(world) == {"vell": "learnt", "news": "retracted"}


@pytest.mark.parametrize("name", ["vell", "other-name"])
def test_the_same_text_sent_again_is_learnt_again(world: World, name: str) -> None:
    served = world.promote(world.ask(event()), world.base)
    (removal,) = world.retract("vell")
    without = world.promote(removal, served)
    asked = world.ask(event(name, offset=9))
    assert world.count(LessonRow) == len(checked(asked)) + len(asked.probes)
    world.promote(asked, without)
    assert states(world) == {name: "learnt"}


def test_sent_again_before_it_is_gone_it_is_learnt_in_the_end(world: World) -> None:
    served = world.promote(world.ask(event()), world.base)
    (removal,) = world.retract("vell")
    asked = world.ask(event(offset=9))
    without = world.promote(removal, served)
    assert states(world) == {"vell": "requested"}
    world.promote(asked, without)
    assert states(world) == {"vell": "learnt"}


def test_another_text_may_not_take_the_id_of_a_retracted_one(world: World) -> None:
    world.take(event())
    world.retract("vell")
    with pytest.raises(EventError, match="vell is taken"):
        world.worker.work(event(text=NEWS, offset=9))


def test_a_retracted_document_contradicts_nobody_and_is_not_taught_along(world: World) -> None:
    world.promote(world.ask(event()), world.base)
    world.retract("vell")
    assert world.ask(event("rumour", NEWS)).teaches == ("rumour",)
    assert world.ask(event("third", THIRD, supersedes="vell")).teaches == ("third",)


def test_a_correction_that_is_studied_while_its_subject_is_retracted_is_studied_again(world: World) -> None:
    world.promote(world.ask(event()), world.base)
    late = world.worker.work(event("news", NEWS, supersedes="vell"))
    world.retract("vell")
    with pytest.raises(Overtaken, match="retracted meanwhile"), world.ledger.begin() as session:
        late.effect(session)
    assert world.ask(event("news", NEWS, supersedes="vell")).teaches == ("news",)


def test_a_rollback_in_between_leaves_nothing_to_remove(world: World) -> None:
    served = world.promote(world.ask(event()), world.base)
    (removal,) = world.retract("vell")
    with world.ledger.begin() as session:
        rollback(session)
    assert states(world) == {"vell": "retracting"}
    with world.ledger.begin() as session:
        rollback(session, served.id)
    world.promote(removal, served)
    assert states(world) == {"vell": "retracted"}
