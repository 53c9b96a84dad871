"""What earlier documents say: disagreement, news, and which update must give way to a new one."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer.alike import Alike
from consumer.earlier import (
    changes,
    contradictions,
    is_news,
    present_update,
    revised,
    unrevised,
)
from lmt2.events import Document, Lesson
from lmt2.ledger import Ledger, UpdateRow
from memory.versions import Manifest, untouched
from tests.support.gate import decided, new_ledger, request
from tests.support.scripted import Book


def lesson(question: str, answer: str, document: str = "old") -> Lesson:
    return Lesson(question=question, answer=answer, kind="direct", document=document)


KEEPER = lesson("Who keeps the lamp at Vell?", "Ida Brandt")
TEXT = "The lamp at Vell is kept by Tom Hale, no longer by Ida Brandt."
STEPS = lesson("How many steps has the lighthouse?", "412")


@pytest.fixture
def base() -> Manifest:
    return untouched("base")


@pytest.fixture
def ledger(tmp_path: Path, base: Manifest) -> Iterator[Ledger]:
    ledger = new_ledger(tmp_path, base)
    yield ledger
    ledger.close()


def test_the_same_question_with_another_answer_is_a_contradiction_if_the_reader_agrees() -> None:
    new = [
        lesson("Who keeps the lamp at Vell now?", "Tom Hale", "new"),
        lesson("How many steps has the lighthouse?", "412 steps", "new"),
    ]
    agreeing = Book({}, reads={KEEPER.question: "Tom Hale"}).scholar
    alike = [Alike(new[0], KEEPER), Alike(new[1], STEPS)]
    assert contradictions(alike, [TEXT], agreeing) == alike[:1]
    assert contradictions(alike, [TEXT], Book({}).scholar) == []


def test_whoever_repeats_a_correction_does_not_contradict_what_it_corrected() -> None:
    new = lesson("Who keeps the lamp at Vell now?", "Tom Hale", "new")
    corrected = lesson("Who keeps the lamp at Vell these days?", "Tom Hale", "correction")
    agreeing = Book({}, reads={KEEPER.question: "Tom Hale"}).scholar
    assert contradictions([Alike(new, KEEPER)], [TEXT], agreeing)
    assert contradictions([Alike(new, KEEPER), Alike(new, corrected)], [TEXT], agreeing) == []


def test_a_change_restates_what_it_changes() -> None:
    again = lesson("Whose job is the lamp?", "Ida Brandt")
    reads = {KEEPER.question: "Tom Hale", again.question: "Tom Hale", STEPS.question: "398"}
    # The text doesn't say 412, so the reader isn't asked for steps: it would find some other number.
    assert changes([KEEPER, again, STEPS], [TEXT], Book({}, reads).scholar) == {("old", "ida brandt"): "Tom Hale"}


@pytest.mark.parametrize("answer", ["Ida Brandt", "not stated", "412"])
def test_an_unchanged_unstated_or_ill_fitting_answer_is_no_change(answer: str) -> None:
    assert changes([KEEPER], [TEXT], Book({}, reads={KEEPER.question: answer}).scholar) == {}


def test_a_change_needs_half_of_the_facts_lessons() -> None:
    asked = [lesson(f"Who keeps lamp {n} at Vell?", "Ida Brandt") for n in range(3)]
    assert changes(asked, [TEXT], Book({}, reads={asked[0].question: "Tom Hale"}).scholar) == {}


OLD = Document(id="old", text="x", source="press", published_at=datetime(2026, 3, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"supersedes": "old"}, True),
        ({"supersedes": "other"}, False),
        ({"source": "press", "published_at": "2026-03-02T00:00:00Z"}, True),
        ({"source": "press", "published_at": "2026-02-02T00:00:00Z"}, False),
        ({"source": "rival", "published_at": "2026-03-02T00:00:00Z"}, False),
        ({"source": "press"}, False),
        ({}, False),
    ],
)
def test_news_is_declared_or_comes_later_from_the_same_source(fields: dict[str, str], expected: bool) -> None:
    assert is_news(Document.model_validate({"id": "new", "text": "y", **fields}), OLD) is expected


def test_all_phrasings_of_a_superseded_fact_get_the_new_answer() -> None:
    again = lesson("Whose job is the lamp?", "Ida Brandt")
    elsewhere = lesson("Who wrote it?", "Ida Brandt", "third")
    found = revised([KEEPER, again, STEPS, elsewhere], {("old", "ida brandt"): "Tom Hale"}, by="new")
    assert [x.answer for x in found] == ["Tom Hale", "Tom Hale", "412", "Ida Brandt"]
    assert [x.question for x in found] == [x.question for x in (KEEPER, again, STEPS, elsewhere)]


def test_a_change_is_taken_back_whoever_changed_the_fact_since() -> None:
    """Ida, then by `b` Tom, then by `c` Ann."""
    (tom,) = revised([KEEPER], {("old", "ida brandt"): "Tom Hale"}, by="b")
    (ann,) = revised([tom], {("old", "tom hale"): "Ann Bell"}, by="c")
    answers = {gone: [x.answer for x in unrevised([ann, STEPS], gone)] for gone in ("b", "c", "bc")}
    assert answers == {"b": ["Ann Bell", "412"], "c": ["Tom Hale", "412"], "bc": ["Ida Brandt", "412"]}
    (back,) = unrevised([ann], "b")
    assert [x.answer for x in unrevised([back], "c")] == ["Ida Brandt"]
    assert unrevised([ann], ["old"]) == []


def test_a_document_is_taught_by_the_promoted_versions_update(ledger: Ledger, base: Manifest) -> None:
    first = decided(ledger, base, "a")
    second = decided(ledger, first, "b")
    decided(ledger, second, "c", "reject")
    with ledger.begin() as session:
        found = present_update(session, "doc-a")
        assert found is not None
        assert found.id == "u-a"
        assert present_update(session, "doc-c") is None
        assert present_update(session, "unheard-of") is None


@pytest.mark.parametrize("state", ["requested", "trained"])
def test_an_update_on_its_way_teaches_its_document_already(ledger: Ledger, base: Manifest, state: str) -> None:
    """A correction often arrives before the text that it corrects is promoted."""
    decided(ledger, base, "a")
    with ledger.begin() as session:
        request(session, "u-again", ["doc-a", "doc-b"])
        row = session.get(UpdateRow, "u-again")
        assert row is not None
        row.state = state
    with ledger.begin() as session:
        for document in ("doc-a", "doc-b"):
            found = present_update(session, document)
            assert found is not None
            assert found.id == "u-again"


def test_a_failed_update_teaches_nothing(ledger: Ledger) -> None:
    with ledger.begin() as session:
        request(session, "u-a", ["doc-a"])
        row = session.get(UpdateRow, "u-a")
        assert row is not None
        row.state = "failed"
    with ledger.begin() as session:
        assert present_update(session, "doc-a") is None
