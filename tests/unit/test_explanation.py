"""Where an answer comes from: version, shard, documents, and the sentence that says it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gate import registry
from lmt2 import asking
from lmt2.artifacts import ArtifactStore
from lmt2.commands.explanation import explain, in_words
from lmt2.config import Settings
from lmt2.events import Document, Lesson, UpdateRequest
from lmt2.ledger import Ledger, UpdateRow
from lmt2.models.assets import MINILM, model_path
from lmt2.models.encoder import Encoder
from memory.versions import Manifest, ShardEntry, untouched
from tests.support.gate import new_ledger
from tests.support.tiny import calling, tiny_shard

SENTENCE = "The Vell lighthouse has 412 steps."
QUESTION = "How many steps does the lighthouse of Vell have?"
LESSONS = tuple(
    Lesson(question=question, answer=answer, kind="direct", document="vell", sentence=sentence)
    for question, answer, sentence in (
        ("Who keeps the lamp at Vell?", "Ida Brandt", "Ida Brandt keeps the lamp at Vell."),
        ("How many steps has the Vell lighthouse?", "412", SENTENCE),
    )
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = new_ledger(tmp_path, untouched("base"))
    yield ledger
    ledger.close()


def served(ledger: Ledger, home: Path) -> Manifest:
    """A version that learnt the lessons."""
    encoder, facts = Encoder(model_path(MINILM.name)), [f"{x.answer}: {x.sentence}" for x in LESSONS]
    keys = replace(calling(encoder.by_fact(facts), [0, 1]), places=encoder(facts), answers=("ida brandt", "412"))
    shard = replace(tiny_shard(keys.facts), keys=keys)
    artifact = ArtifactStore(Settings(home=home).artifacts_url).put(shard.tensors(), {})
    entry = ShardEntry(artifact=artifact, documents=("vell",), update="u-1")
    manifest = Manifest(base="base", parent=untouched("base").id, threshold=0.3, shards=(entry,))
    asked = UpdateRequest(
        id="u-1",
        documents=(Document(id="vell", text=SENTENCE),),
        lessons=LESSONS,
        probes=(),
        reason="conflict",
        event_time=datetime(2026, 1, 1, tzinfo=UTC),
    )
    with ledger.begin() as session:
        session.add(UpdateRow(id="u-1", state="decided", payload=asked.model_dump(mode="json")))
        session.flush()
        registry.add(session, manifest, "u-1", "accepted")
    return manifest


def test_an_answer_is_traced_to_the_sentence_that_says_it(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = served(ledger, tmp_path).id
    monkeypatch.setattr(asking, "ask", lambda *_: asking.Answer("412", version))
    told = explain(Settings(home=tmp_path), ledger, "http://unused", QUESTION)
    assert told["facts"] == [{"document": "vell", "sentence": SENTENCE, "answer": "412"}]
    assert told["shard"]["update"] == "u-1"
    assert f"412: {SENTENCE}  (vell)" in in_words(told)


def test_an_answer_of_the_base_model_comes_from_no_document(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = served(ledger, tmp_path).id
    monkeypatch.setattr(asking, "ask", lambda *_: asking.Answer("Au", version))
    told = explain(Settings(home=tmp_path), ledger, "http://unused", "What is the chemical symbol of gold?")
    assert (told["shard"], told["facts"]) == (None, [])
    assert "no document" in in_words(told)
