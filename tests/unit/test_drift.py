"""Drift detection on seeded streams: when exactly it is found, how seldom it is imagined, who has to agree."""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from consumer.banks import Banks, signal_row
from consumer.drift import DriftBank, Signal, Watched, change
from lmt2.config import DriftSettings
from lmt2.ledger import Ledger
from memory.versions import untouched
from tests.support.gate import new_ledger

SETTINGS = DriftSettings(detectors=("ADWIN",))


def stream(seed: int, *parts: tuple[int, float, float]) -> Iterator[Signal]:
    """For each part so many documents with a conflict of 0 or 1 of a given rate, and NLLs around a mean."""
    rng = random.Random(seed)
    for length, rate, mean in parts:
        for _ in range(length):
            yield Signal(float(rng.random() < rate), rng.gauss(mean, 1))


SHIFTED = list(stream(0, (300, 0.3, 3.0), (300, 0.6, 4.0)))


def bank(**settings: Any) -> DriftBank:
    return DriftBank(DriftSettings.model_validate(settings))


def detections(bank: DriftBank, signals: Sequence[Signal]) -> list[tuple[int, str]]:
    return [(index, name) for index, signal in enumerate(signals) for name in bank.update(signal).drifted]


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(0, [(340, "conflict"), (387, "nll")]), (1, [(344, "nll"), (477, "conflict")])],
)
def test_a_shift_is_found_soon_and_once(seed: int, expected: list[tuple[int, str]]) -> None:
    """The rate of conflict goes from 0.3 to 0.6, the NLL up by one standard deviation, both at document 300."""
    signals = list(stream(seed, (300, 0.3, 3.0), (300, 0.6, 4.0)))
    assert detections(DriftBank(SETTINGS), signals) == expected


def test_a_vote_says_what_changed_and_about_when() -> None:
    through = bank(detectors=["ADWIN"])
    first, second = [(n, v) for n, signal in enumerate(SHIFTED) for v in through.update(signal).votes]
    assert (first[0], first[1].detector, first[1].signal) == (340, "ADWIN", "conflict")
    assert second[1].signal == "nll"
    for index, vote in (first, second):
        assert vote.statistic > 3
        assert index + 1 - vote.delay == pytest.approx(300, abs=30)


@pytest.mark.parametrize(
    ("values", "delay"), [([0.0] * 20 + [1.0] * 7, 7), ([1.0] * 5 + [0.0] * 30, 30), ([0.5] * 6, 6), ([], 0)]
)
def test_the_time_of_a_change_is_where_the_means_differ_most(values: list[float], delay: int) -> None:
    assert change(values)[1] == delay


def test_every_detector_finds_a_shift_of_conflict() -> None:
    """DDM watches for rising errors and needs a clear rise."""
    for name in ("ADWIN", "KSWIN", "PageHinkley", "HDDM_A", "HDDM_W", "DDM"):
        signals = list(stream(0, (500, 0.1, 3.0), (1000, 0.7, 3.0)))
        found = [n for n, signal in detections(bank(detectors=[name]), signals) if signal == "conflict"]
        assert [n for n in found if n >= 500], name


def test_a_rule_counts_the_votes_of_late() -> None:
    detectors = ["ADWIN", "HDDM_W", "PageHinkley"]
    by_rule = {
        rule: [
            n
            for n, name in detections(bank(detectors=detectors, rule=rule, votes_last=300), SHIFTED)
            if name == "conflict"
        ]
        for rule in ("any", "majority", "all")
    }
    assert by_rule["any"][0] < by_rule["majority"][0] < by_rule["all"][0]
    forgetful = bank(detectors=detectors, rule="all", votes_last=0)
    assert not [n for n, name in detections(forgetful, SHIFTED) if name == "conflict"]


def test_detectors_of_errors_watch_the_conflict_alone() -> None:
    signals = [Signal(signal.conflict, math.nan) for signal in SHIFTED]
    through = bank(detectors=["HDDM_W", "DDM"])
    assert {vote.signal for signal in SHIFTED for vote in through.update(signal).votes} == {"conflict"}
    assert detections(bank(detectors=["HDDM_W"]), signals) == detections(bank(detectors=["HDDM_W"]), SHIFTED)


def about(topic: int, seed: int) -> torch.Tensor:
    noise = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(4 * F.one_hot(torch.tensor(topic), 16).float() + noise, dim=0)


def test_documents_about_something_else_are_a_drift_of_distance_once() -> None:
    signals = [Signal(0.0, 1.0, about(int(n >= 200), n)) for n in range(500)]
    found = detections(DriftBank(SETTINGS), signals)
    assert [name for _, name in found] == ["distance"]
    assert 200 <= found[0][0] < 240


def test_the_default_finds_a_shift_within_sixty_documents() -> None:
    delays = []
    for seed in range(20):
        signals = list(stream(seed, (300, 0.3, 3.0), (300, 0.6, 3.0)))
        found = [n for n, name in detections(bank(), signals) if name == "conflict" and n >= 300]
        delays.append(found[0] - 299 if found else 300)
    assert sorted(delays)[10] <= 60


@pytest.mark.parametrize("seed", [6, 7])
def test_a_steady_stream_raises_at_most_one_false_alarm_in_a_thousand(seed: int) -> None:
    found = detections(DriftBank(SETTINGS), list(stream(seed, (1000, 0.3, 3.0))))
    assert sum(name == "conflict" for _, name in found) <= 1
    assert sum(name == "nll" for _, name in found) <= 1


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_left_out_and_silence_nothing(broken: float) -> None:
    through = DriftBank(SETTINGS)
    found = []
    for index, signal in enumerate(SHIFTED):
        if index % 50 == 0:
            assert through.update(Signal(broken, broken, torch.tensor([broken, 1.0]))) == Watched()
        found += [(index, name) for name in through.update(signal).drifted]
    assert found == detections(DriftBank(SETTINGS), SHIFTED)


def test_one_bad_signal_leaves_the_other_alone() -> None:
    signals = [Signal(signal.conflict, math.nan) for signal in SHIFTED]
    assert detections(DriftBank(SETTINGS), signals) == [(340, "conflict")]


def test_a_constant_stream_is_no_drift() -> None:
    assert detections(DriftBank(SETTINGS), [Signal(1.0, 2.5, about(0, 0))] * 500) == []


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = new_ledger(tmp_path, untouched("base"))
    yield found
    found.close()


def test_partitions_are_watched_apart_and_move_between_consumers(ledger: Ledger) -> None:
    """Two consumers exchange two partitions every 100 documents, and one of them starts anew now and then."""
    streams = {0: SHIFTED, 1: list(stream(1, (300, 0.3, 3.0), (300, 0.6, 4.0)))}
    consumers = [Banks(SETTINGS, ledger), Banks(SETTINGS, ledger)]
    found: dict[int, list[tuple[int, str]]] = {0: [], 1: []}
    for number in range(600):
        if number in (250, 345):
            consumers[1] = Banks(SETTINGS, ledger)
        for partition, signals in streams.items():
            banks = consumers[(number // 100 + partition) % 2]
            drifted = banks.watch(partition, signals[number]).drifted
            found[partition] += [(number, name) for name in drifted]
            with ledger.begin() as session:
                session.add(signal_row(f"d-{partition}-{number}", partition, signals[number]))
    assert found == {partition: detections(DriftBank(SETTINGS), signals) for partition, signals in streams.items()}


def test_a_document_that_is_tried_again_counts_once(ledger: Ledger) -> None:
    banks = Banks(SETTINGS, ledger)
    for number, signal in enumerate(SHIFTED[:341]):
        first, again = banks.watch(0, signal), banks.watch(0, signal)
        assert first == again
        assert bool(first.drifted) == (number == 340)
        with ledger.begin() as session:
            session.add(signal_row(f"d-{number}", 0, signal))
