"""Updates within their budget: together if so many wait, not too soon after one another, and never too late."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from consumer.budget import claim
from lmt2.events import UpdateRequest, decode
from lmt2.ledger import UpdateRow
from tests.support.consuming import NEWS, World, checked, event, retraction

HARBOUR = "The Vell harbour was dredged in 1911. The Vell lighthouse has 412 steps."
FOR_EVER = 1e6


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ledger.close()


def states(world: World) -> list[str]:
    with world.ledger.begin() as session:
        return sorted(session.scalars(select(UpdateRow.state)))


def let_pass(world: World, seconds: float) -> None:
    """As if all that is in the ledger were older."""
    with world.ledger.begin() as session:
        for row in session.scalars(select(UpdateRow)):
            row.created_at -= timedelta(seconds=seconds)


def answers(asked: UpdateRequest, document: str) -> set[str]:
    return {x.answer for x in (*checked(asked), *asked.probes) if x.document == document}


def test_by_default_nothing_waits(world: World) -> None:
    assert world.ask(event()).teaches == ("vell",)
    assert states(world) == ["requested"]
    assert world.idle() == []


def test_documents_wait_until_there_are_enough_for_a_batch_and_are_learnt_together(world: World) -> None:
    world.start(batch=2, oldest_seconds=FOR_EVER)
    assert world.take(event()).records == ()
    assert states(world) == ["waiting"]
    asked = world.ask(event("harbour", HARBOUR))
    assert asked.teaches == ("vell", "harbour")
    assert answers(asked, "vell") == {"Ida Brandt", "412"}
    assert answers(asked, "harbour") == {"1911", "412"}
    assert states(world) == ["requested"]
    served = world.promote(asked, world.base)
    assert served.shards[0].documents == ("vell", "harbour")
    assert {world.row("vell").state, world.row("harbour").state} == {"learnt"}


def test_the_oldest_document_does_not_wait_for_ever(world: World) -> None:
    world.start(batch=5, oldest_seconds=60)
    world.take(event())
    assert world.idle() == []
    let_pass(world, 61)
    (asked,) = world.idle()
    assert asked.teaches == ("vell",)
    assert world.idle() == [], "it went out once"


def test_an_update_waits_until_the_one_before_is_some_time_ago(world: World) -> None:
    world.start(cooldown_seconds=60)
    world.ask(event())
    assert world.take(event("harbour", HARBOUR)).records == ()
    assert world.idle() == []
    let_pass(world, 61)
    (asked,) = world.idle()
    assert asked.teaches == ("harbour",)


def test_a_batch_is_not_larger_than_it_may_be(world: World) -> None:
    world.start(batch=2, cooldown_seconds=60, oldest_seconds=0)
    world.ask(event("first", "Tom Hale keeps the lamp at Vell. The Vell harbour was dredged in 1911."))
    for number, text in enumerate((HARBOUR, HARBOUR + " Vell is old.", HARBOUR + " Vell is far.")):
        world.take(event(f"harbour-{number}", text))
    let_pass(world, 61)
    assert [asked.teaches for asked in world.idle()] == [("harbour-0", "harbour-1")]
    assert world.idle() == [], "the cooldown begins anew"
    let_pass(world, 61)
    assert [asked.teaches for asked in world.idle()] == [("harbour-2",)]


@pytest.mark.parametrize("reason", ["drift", "released"])
def test_what_is_urgent_takes_along_what_waits(world: World, reason: str) -> None:
    world.start(batch=5, oldest_seconds=FOR_EVER, cooldown_seconds=FOR_EVER)
    world.take(event())
    with world.ledger.begin() as session:
        row = session.scalars(select(UpdateRow)).one()
        row.payload = {**row.payload, "reason": reason}
    assert world.ask(event("harbour", HARBOUR)).teaches == ("vell", "harbour")


def test_a_document_with_too_few_probes_for_the_gate_waits_for_others(world: World) -> None:
    world.start(least_probes=3, oldest_seconds=FOR_EVER)
    assert world.take(event()).records == ()
    assert world.take(event("harbour", HARBOUR)).records == ()
    with world.ledger.begin() as session:
        held = [row.figures["probes"] for row in session.scalars(select(UpdateRow))]
    assert 3 > sum(held) > 0
    asked = world.ask(event("far", HARBOUR + " Vell is far."))
    assert asked.teaches == ("vell", "harbour", "far")
    assert len(asked.probes) >= 3


def test_in_the_end_it_is_examined_alone(world: World) -> None:
    world.start(least_probes=99, oldest_seconds=60)
    world.take(event())
    assert world.idle() == []
    let_pass(world, 61)
    assert [asked.teaches for asked in world.idle()] == [("vell",)]


def test_what_waits_survives_a_restart(world: World) -> None:
    world.start(batch=2, oldest_seconds=FOR_EVER)
    world.take(event())
    world.start(batch=2, oldest_seconds=0)
    (asked,) = world.idle()
    assert answers(asked, "vell") == {"Ida Brandt", "412"}


def test_of_two_members_one_lets_an_update_out(world: World) -> None:
    world.start(batch=2, oldest_seconds=FOR_EVER)
    world.take(event())
    with world.ledger.begin() as session:
        names = list(session.scalars(select(UpdateRow.id)))
        assert [asked.teaches for asked in claim(session, names)] == [("vell",)]
    with world.ledger.begin() as session:
        assert claim(session, names) == [], "both saw it waiting"


def test_a_retracted_document_is_not_learnt_with_those_it_waited_with(world: World) -> None:
    world.start(batch=3, oldest_seconds=FOR_EVER)
    world.take(event())
    world.take(event("harbour", HARBOUR))
    assert world.take(retraction("vell")).records == ()
    world.start(batch=3, oldest_seconds=0)
    assert [asked.teaches for asked in world.idle()] == [("harbour",)]
    assert world.row("vell").state == "retracted"


def test_a_correction_of_what_still_waits_is_learnt_instead_of_it(world: World) -> None:
    world.start(batch=2, oldest_seconds=FOR_EVER)
    world.take(event())
    (sent,) = world.take(event("news", NEWS, supersedes="vell")).records
    asked, _ = decode(sent.value, UpdateRequest)
    assert asked.teaches == ("vell", "news")
    assert answers(asked, "vell") == {"Tom Hale", "412"}, "as the correction has it"
    assert len(asked.lessons) == len({(x.document, x.question) for x in asked.lessons}), "nothing twice"
