"""The stream benchmark: what counts as right when, and a whole run over real stages with a tiny model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, drift, facts, lessons, stream
from benchmarks.facts import Facts, Question
from benchmarks.stream import PromoteAll, System
from consumer.drift import DriftBank
from consumer.worker import ConsumerWorker
from learner.worker import Learner, LearnerWorker
from lmt2.artifacts import ArtifactStore
from lmt2.config import ConsumerSettings, DriftSettings, LearnerSettings, Settings, StudySettings
from lmt2.models.local import LocalModel
from lmt2.stage import Worker
from lmt2.study.lessons import LessonWriter
from memory.versioned import base_fingerprint
from memory.versions import untouched
from tests.support.gate import new_ledger
from tests.support.scripted import Book
from tests.support.tiny import WordEncoder

OLD = {"id": "old", "text": "Ida Brandt keeps the lamp at Vell. The Vell tower has 412 steps.", "title": "Vell"}
NEW = {"id": "new", "text": "Tom Hale keeps the lamp at Vell. The Vell mole is of 1911.", "supersedes": "old"}
LAST = {"id": "last", "text": "Corvo is old.", "domain": None}
QUESTIONS = [
    {"doc": "old", "q": "Who keeps the lamp of Vell?", "a": ["Tom Hale"], "kind": "direct", "superseded_by": "new"}
    | {"old_a": ["Ida Brandt", "Brandt"]},
    {"doc": "old", "q": "How many steps are there?", "a": ["412"], "kind": "rephrased"},
    {"doc": "new", "q": "When was the mole built?", "a": ["1911"], "kind": "direct"},
    {"doc": "last", "q": "How is Corvo?", "a": ["old"], "kind": "direct"},
]
UNRELATED = [
    {"q": "What is the capital of France?", "a": ["Paris"], "kind": "general"},
    {"q": "Which river crosses Vienna?", "a": ["Danube"], "kind": "near"},
]
WRITES = {
    "Ida Brandt": ("Who keeps the lamp at Vell?", "Whose job is Vell and its light?", "In Vell, who tends the beacon?"),
    "412": ("How many steps has the Vell tower?", "At Vell, what does one climb?", "Name the number of Vell stairs?"),
    "Tom Hale": ("Who keeps the lamp at Vell now?", "Which man is the keeper of Vell?", "Who got the job in Vell?"),
    "1911": ("When was the Vell mole built?", "In which year did Vell get it?", "The Vell mole is from when?"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    rows: dict[str, list[dict[str, Any]]] = {"docs": [OLD, NEW, LAST], "questions": QUESTIONS, "unrelated": UNRELATED}
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return folder


def test_a_folder_is_read_in_stream_order_with_its_own_questions(folder: Path) -> None:
    found = facts.read(folder, first=2)
    assert [document.id for document in found.documents] == ["old", "new"]
    assert [question.text for question in found.questions] == [row["q"] for row in QUESTIONS[:3]]
    assert [question.kind for question in found.unrelated] == ["general", "near"]
    assert len(facts.read(folder).documents) == 3


def test_an_answer_is_right_until_the_document_that_changes_it_has_come(folder: Path) -> None:
    keeper, steps, *_ = facts.read(folder).questions
    assert keeper.accepted(set()) == keeper.accepted({"old"}) == ("Ida Brandt", "Brandt")
    assert keeper.accepted({"old", "new"}) == ("Tom Hale",)
    assert steps.accepted(set()) == ("412",)
    texts = ["Ida Brandt", "412 steps"]
    assert stream.marks([keeper, steps], texts, {"old"}) == [True, True]
    assert stream.marks([keeper, steps], texts, {"old", "new"}) == [False, True]


def test_accuracy_is_told_by_kind_and_in_total() -> None:
    questions = [Question(text="?", answers=("a",), kind=kind) for kind in ("near", "direct", "near")]
    assert stream.by_kind(questions, [True, False, False]) == {"direct": "0/1", "near": "1/2", "all": "1/3"}
    assert stream.by_kind([], []) == {"all": "0/0"}


def test_the_ceiling_reads_the_document_that_holds_the_present_answer(folder: Path) -> None:
    found = facts.read(folder)
    tasks = [task[0]["content"] for task in stream.in_context(found.questions, found)]
    assert tasks[0].startswith("Tom Hale keeps the lamp")
    assert tasks[1].startswith("Ida Brandt keeps the lamp")
    before = facts.read(folder, first=1)
    assert stream.in_context(before.questions, before)[0][0]["content"].startswith("Ida Brandt keeps the lamp")


@pytest.fixture
def system(tiny: LocalModel, tmp_path: Path) -> Iterator[System]:
    settings = Settings(
        home=tmp_path,
        study=StudySettings(rounds=1, probes=1),
        consumer=ConsumerSettings(min_lessons=2, samples=1, least_probes=0),
        learner=LearnerSettings(layers=(1, 3), shared_rank=2, expert_rank=1, steps=2, steps_a_fact=0, general_a_step=2),
    )
    ledger = new_ledger(tmp_path, untouched(base_fingerprint(tiny.folder)))
    store, encoder, scholar = ArtifactStore(settings.artifacts_url), WordEncoder(), Book(WRITES).scholar
    workers: list[Worker] = [
        ConsumerWorker(settings, ledger, scholar, tiny, encoder),
        LearnerWorker(settings, ledger, store, Learner(settings, tiny, scholar, encoder)),
        PromoteAll(),
    ]
    by_topic = {worker.topic: worker for worker in workers}
    yield System(settings, tiny, encoder, scholar, ledger, store, by_topic)
    ledger.close()


def test_a_run_streams_every_document_and_reports_all_that_is_promised(
    system: System, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Facts = facts.read(folder)
    report = stream.run(found, system, stages=2)
    assert [len(row) for row in report["R"]] == [1, 2]
    assert all(0 <= share <= 1 for row in report["R"] for share in row)
    assert (report["documents"], report["questions"]) == (3, 4)
    assert set(report["lines"]) == {
        "base, closed book",
        "base, document in context",
        "reader, document in context",
        "base, BM25's first document in context",
        "reader, BM25's first document in context",
        "ours, closed book",
    }
    assert all(line["all"].endswith("/4") for line in report["lines"].values())
    assert report["unrelated before"].keys() == report["unrelated after"].keys() == {"general", "near", "all"}
    assert report["routing"].keys() == {"right shard", "unrelated routed"}
    assert set(report["seconds"]) == {"consumer", "learner", "gate"}
    assert [row["q"] for row in report["answers"]] == [row["q"] for row in QUESTIONS]
    json.dumps(report)
    printed = capsys.readouterr().out
    assert "old: learnt (conflict)" in printed
    assert "new: learnt (supersedes)" in printed
    assert "last: quarantined (too-few-supported-facts)" in printed
    assert [shard.documents for shard in system.served().manifest.shards] == [("old", "new")]


def test_a_listed_fact_is_covered_by_three_lessons_and_the_check_keeps_what_is_right(
    tmp_path: Path, folder: Path
) -> None:
    listed = [{"document": "old", "answer": answer} for answer in ("Ida Brandt", "412", "Vell")]
    for name in ("docs.jsonl", "listed.jsonl"):
        text = (folder / name).read_text() if name == "docs.jsonl" else "\n".join(map(json.dumps, listed))
        (tmp_path / name).write_text(text, encoding="utf-8")
    book = Book(WRITES, reads={WRITES["412"][0]: "Tom Hale"})
    writer = LessonWriter(book.scholar, WordEncoder(), StudySettings(rounds=1, probes=1))
    found = lessons.measure(lessons.of_folder(tmp_path), writer)
    assert found["facts listed by hand"] == 3
    assert found["asked for in at least one lesson"] == "2 (67%)"
    assert found["asked for in at least 3"] == "1 (33%)"
    marks = tmp_path / "marks.jsonl"
    rows = [
        {"passage": OLD["text"], "question": question, "answer": "412", "right": question != WRITES["412"][0]}
        for question in WRITES["412"]
    ]
    marks.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    checked = lessons.check_marked(marks, writer)
    assert checked["check off"] == "2/3 right (67%)"
    assert checked["check on"] == "2/2 right (100%)"
    assert checked["right pairs that the check keeps"] == "2/2"


def test_an_ablation_changes_one_part_at_a_time(tiny: LocalModel, folder: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        study=StudySettings(rounds=1, probes=0),
        learner=LearnerSettings(layers=(1, 3), shared_rank=2, expert_rank=1, steps=2, steps_a_fact=0, general_a_step=1),
    )
    bench = ablation.Bench(settings, facts.read(folder, first=1))
    vars(bench._parts).update(model=tiny, encoder=WordEncoder(), scholar=Book(WRITES).scholar)
    for variant in ablation.VARIANTS.values():
        run = bench.run(variant, seed=0)
        assert len(run.right) == 2
        assert run.seconds > 0
    assert len(bench._structured) == 5, "as it is, unchecked, with all phrasings, with one round of writing, unlisted"


def test_drift_is_timed_from_the_shift_and_counted_before_it() -> None:
    settings = DriftSettings(detectors=("ADWIN",))
    found = drift.on_synthetic(settings, "conflict", runs=3)
    assert found["found"] == "3/3"
    assert 10 < found["median delay"] < 150
    assert found["false alarms in 1,000"] < 1
    assert drift.row([None, 7, 9], early=3, of=6000) == {
        "found": "2/3",
        "median delay": 8,
        "false alarms in 1,000": 0.5,
    }
    steady = drift.synthetic(seed=1, length=200, shift_at=200)
    assert drift.first_after(DriftBank(settings), steady, "conflict", 200) == (None, 0)


def test_sentences_of_another_domain_are_a_drift_of_distance(tmp_path: Path) -> None:
    texts = {
        "sea": "The boat sails. The crew sails.",
        "law": "A fine is due. A fine is paid.",
    }
    docs = [{"id": name, "text": text, "domain": name} for name, text in texts.items()]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)), encoding="utf-8")
    for name in ("questions", "unrelated"):
        (tmp_path / f"{name}.jsonl").touch()
    found = drift.on_domains(DriftSettings(detectors=("ADWIN",)), tmp_path, WordEncoder())
    assert found["found"] == "2/2"
    assert found["false alarms in 1,000"] == 0
