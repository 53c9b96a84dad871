"""The benchmarks of conflict and of drift on planted documents: their arithmetic, and the triage over a real worker."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import drift, kaft, planted
from benchmarks.kaft import NoReader, Reader, Replay, auroc, by_document, by_question, interval
from benchmarks.planted import Seen
from benchmarks.plots import drift_plot
from consumer.kaft import ask
from lmt2.config import ConsumerSettings, DriftSettings, Settings, StudySettings
from lmt2.events import Document, Lesson
from lmt2.models.base import Conversation
from lmt2.scoring import hit
from tests.support.scripted import Probe, Scripted
from tests.support.tiny import WordEncoder

FACTS = planted.DATA / "facts"
SETTINGS = ConsumerSettings(samples=2)
TEXTS = {
    ("known", "France"): "The capital of France is Paris. The capital of Italy is Rome.",
    ("new", "Vell"): "Ida Brandt keeps the lamp at Vell. The Vell lighthouse has 412 steps.",
    ("contradicting", "Vell again"): "Tom Hale keeps the lamp at Vell. The Vell lighthouse has 9 steps.",
}
ASKED = {
    "France": {"What is the capital of France?": "Paris", "What is the capital of Italy?": "Rome"},
    "Vell": {"Who keeps the lamp at Vell?": "Ida Brandt", "How many steps has Vell?": "412"},
    "Vell again": {"Who keeps the lamp at Vell?": "Tom Hale", "How many steps has Vell?": "9"},
}


def says(conversation: Conversation) -> str:
    return ASKED["France"].get(conversation[-1]["content"], "No idea.")


def reads(conversation: Conversation) -> str:
    """The answer that stands in the passage."""
    passage, question = conversation[-1]["content"].rsplit("\n\n", 1)
    answers = [known[question] for known in ASKED.values() if question in known]
    return next((answer for answer in answers if hit(passage, [answer])), "not stated")


@pytest.fixture
def found() -> list[Seen]:
    """A known document, a new one, and one that contradicts the new one, as a probe sees them that knows the first."""
    seen = []
    for (sort, name), text in TEXTS.items():
        lessons = [Lesson(question=q, answer=a, kind="direct", document=name) for q, a in ASKED[name].items()]
        document = Document(id=name, text=text, domain=name, source="a press")
        asked = ask(lessons, Probe(says, nll=-9.0 if sort == "known" else 0.0), SETTINGS.samples)
        seen.append(Seen(sort, document, tuple(asked), tuple(WordEncoder()([text])[0].tolist())))
    return seen


def test_auroc_is_the_chance_to_be_above_with_ties_as_halves() -> None:
    assert auroc([2, 3], [0, 1]) == 1
    assert auroc([0, 1], [2, 3]) == 0
    assert auroc([1, 1, 1], [1, 1]) == 0.5
    assert auroc([1, 0], [0.5, 0]) == pytest.approx((2 + 0.5) / 4)


def test_documents_count_by_their_mean_and_are_resampled_whole() -> None:
    high, low = [[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.5, 0.5]]
    assert by_question(high) == [1, 0, 1, 1]
    assert by_document(high) == [0.5, 1]
    lowest, highest = interval(high, low, by_document)
    assert 0.5 <= lowest < auroc(by_document(high), by_document(low)) < highest == 1
    assert interval(high, low, by_document) == (lowest, highest), "seeded"
    assert interval([[1.0]] * 5, [[0.0]] * 5, by_question) == (1, 1)


def test_each_sort_is_set_against_what_is_known(found: list[Seen]) -> None:
    lines = kaft.separation(found, lambda x: x.conflict)
    assert set(lines) == {f"{s}, by {u}" for s in ("all", "new", "contradicting") for u in ("question", "document")}
    assert lines["all, by document"] == "1.000 (1.000 to 1.000)"
    table = kaft.weights(found, SETTINGS)
    assert table["known"].startswith("2/2 below 0.9 α, mean 0.10")
    assert table["new"].startswith("0/2 below 0.9 α, mean 0.99")


def test_a_replay_says_what_the_probe_said(found: list[Seen]) -> None:
    lessons = [x.lesson for x in found[0].asked]
    assert ask(lessons, Replay(found[0]), SETTINGS.samples) == list(found[0].asked)


def test_what_was_seen_is_read_from_its_file(found: list[Seen], tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    file.write_bytes(planted.SEEN.dump_json(found))
    model = Scripted(says)
    assert planted.seen(file, FACTS, model, WordEncoder()) == found
    assert model.asked == []


def test_the_planted_documents_are_of_five_sorts_and_state_their_answers() -> None:
    sorts: dict[str, int] = {}
    for sort, document, lessons in planted.planted(FACTS):
        sorts[sort] = sorts.get(sort, 0) + 1
        assert len(lessons) >= 3
        if sort not in ("new", "superseding"):  # these were written apart, and say some things in other words
            assert [x.question for x in lessons if not hit(" ".join(document.text.split()), [x.answer])] == []
            assert [x.question for x in lessons if hit(x.question, [x.answer])] == []
    assert sorts == {"known": 30, "new": 42, "superseding": 6, "contradicting": 10, "denying": 14}


@pytest.mark.parametrize(("scholar", "refused"), [(Reader, 1), (NoReader, 0)])
def test_the_triage_is_the_workers_own(
    found: list[Seen], tmp_path: Path, scholar: Callable[..., Reader], refused: int
) -> None:
    consumer = SETTINGS.model_copy(update={"min_lessons": 2})
    settings = Settings(home=tmp_path, study=StudySettings(rounds=1), consumer=consumer)
    reader = Scripted(reads)
    became = kaft.triage(found, settings, scholar(reader, reader), WordEncoder())
    assert became["known"] == {"learn": 0, "shadow": 0, "skip": 1, "quarantine": 0, "why": {"known": 1}}
    assert became["new"]["learn"] == 1
    assert became["contradicting"]["quarantine"] == refused


def test_a_stream_of_documents_shifts_twice_and_alarms_are_timed_from_each_shift(
    found: list[Seen], tmp_path: Path
) -> None:
    other = found[2].document.model_copy(update={"domain": "other"})
    documents = drift.Documents([found[0], found[1], Seen("new", other, found[1].asked, (0.0, 1.0) * 32)])
    signals = list(documents.shifting(seed=0))
    assert [signals[n].conflict > 0.5 for n in (0, 299, 300, 899)] == [False, False, True, True]
    report = drift.on_documents(DriftSettings(detectors=("ADWIN",)), documents, runs=2)
    assert report["conflict, known, then new"]["found"] == "2/2"
    assert report["conflict, one domain, then another"]["found"] == "0/2"
    assert report["conflict, known, then new"]["false alarms in 1,000"] == 0
    assert 1 <= report["conflict, known, then new"]["median delay"] < 60
    assert report["conflict, known, then new"]["alarms a shift"] >= 1
    for name in ("first.svg", "second.svg"):
        drift_plot(tmp_path / name, drift.series(signals), {"conflict": [310], "nll": [], "distance": []}, (300, 600))
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
