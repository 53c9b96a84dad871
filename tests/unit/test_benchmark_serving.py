"""The serving benchmark, on a tiny model for speed: what it counts is what happened."""

from pathlib import Path

from benchmarks.serving import Answer, _plan, _report, run
from lmt2.config import LearnerSettings, ModelSettings, ServingSettings, Settings


def test_promotions_under_load_harm_no_answer(tiny_folder: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        model=ModelSettings(name=str(tiny_folder), dtype="float32"),
        learner=LearnerSettings(layers=(1, 3)),
        serving=ServingSettings(port=0),
    )
    report = run(settings, promotions=6, rollbacks=2, clients=3, seconds=2)
    assert report["versions that differ in what they say"] == 6
    assert report["versions seen"] > 1
    assert report["answers"] > 6
    assert (report["failed"], report["mixed"], report["not what their version says"]) == (0, 0, 0)
    assert report["promotions and rollbacks"] == 8


def test_every_kind_of_harm_is_counted() -> None:
    answers = [
        Answer("a", frozenset({"1"})),
        Answer("b", frozenset({"1"})),
        Answer("a", frozenset({"1", "2"})),
        Answer("", frozenset(), "ReadTimeout"),
    ]
    report = _report(answers, {"1": "a", "2": "b"}, [0.1, 0.2])
    assert [report[key] for key in ("answers", "failed", "mixed", "not what their version says")] == [4, 1, 1, 1]


def test_rollbacks_are_spread_among_promotions() -> None:
    assert list(_plan(["1", "2", "3", "4"], 2)) == ["1", "2", None, "3", "4", None]
