"""Who asked nearly the same before: each earlier question is embedded once, and what the ledger says now counts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from consumer.alike import EarlierQuestions
from lmt2.events import Lesson
from lmt2.ledger import DocumentRow, Ledger, LessonRow
from memory.versions import untouched
from tests.support.gate import new_ledger, request
from tests.support.tiny import WordEncoder

NOW = "Who keeps the lamp at Vell now?"


class Counting(WordEncoder):
    """Counts what it embeds."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.texts += texts
        return super().__call__(texts)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = new_ledger(tmp_path, untouched("base"))
    yield ledger
    ledger.close()


def lesson(question: str, document: str) -> Lesson:
    return Lesson(question=question, answer=document, kind="direct", document=document)


def put(ledger: Ledger, state: str, *questions: str) -> None:
    """A document in this state, named after it, with lessons that ask this."""
    with ledger.begin() as session:
        request(session, f"u-{state}", [state])
        session.flush()
        session.get_one(DocumentRow, state).state = state
        for question in questions:
            payload = lesson(question, state).model_dump(mode="json")
            session.add(LessonRow(document_id=state, payload=payload, held_out=state == "known"))


def found(ledger: Ledger, asked: EarlierQuestions, *questions: str) -> set[tuple[str, str]]:
    with ledger.begin() as session:
        pairs = asked.alike(session, [lesson(question, "new") for question in questions])
    return {(pair.old.document, pair.new.question) for pair in pairs}


def test_an_earlier_question_is_found_with_the_nearest_new_one(ledger: Ledger) -> None:
    put(ledger, "learnt", "Who keeps the lamp at Vell?", "How many steps has the lighthouse?")
    asked = EarlierQuestions(WordEncoder())
    assert found(ledger, asked, "Who painted the boats?", "Who keeps Vell?", NOW) == {("learnt", NOW)}
    assert found(ledger, asked) == set()


def test_only_documents_that_were_let_in_are_compared(ledger: Ledger) -> None:
    states = ("requested", "learnt", "known", "shadowed", "rejected", "quarantined", "retracting", "retracted")
    for state in states:
        put(ledger, state, NOW)
    assert {name for name, _ in found(ledger, EarlierQuestions(WordEncoder()), NOW)} == set(states[:4])


def test_each_question_is_embedded_once_however_many_documents_follow(ledger: Ledger) -> None:
    encoder = Counting()
    asked = EarlierQuestions(encoder)
    put(ledger, "learnt", *(f"Who keeps lamp {n}?" for n in range(20)))
    for _ in range(3):
        found(ledger, asked, NOW)
    assert len(encoder.texts) == 20 + 3
    put(ledger, "known", "Who is the keeper?")
    found(ledger, asked, NOW)
    assert encoder.texts[-2:] == ["Who is the keeper?", NOW]


def test_what_another_process_wrote_counts_at_once(ledger: Ledger) -> None:
    asked = EarlierQuestions(WordEncoder())
    put(ledger, "learnt", NOW)
    assert found(ledger, asked, NOW) == {("learnt", NOW)}
    with ledger.begin() as session:
        session.get_one(DocumentRow, "learnt").state = "retracted"
    assert found(ledger, asked, NOW) == set()
    with ledger.begin() as session:
        session.get_one(DocumentRow, "learnt").state = "learnt"
    assert found(ledger, asked, NOW) == {("learnt", NOW)}
