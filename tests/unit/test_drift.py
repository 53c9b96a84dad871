"""Drift detection on seeded streams: when exactly it is found, how seldom it is imagined, what a restart changes."""

import math
import random
from collections.abc import Iterator, Sequence

import pytest

from consumer.drift import DriftBank, Signal
from lmt2.config import DriftSettings

SETTINGS = DriftSettings()


def stream(seed: int, *parts: tuple[int, float, float]) -> Iterator[Signal]:
    """For each part so many documents with a conflict of 0 or 1 of a given rate, and NLLs around a mean."""
    rng = random.Random(seed)
    for length, rate, mean in parts:
        for _ in range(length):
            yield Signal(float(rng.random() < rate), rng.gauss(mean, 1))


def detections(bank: DriftBank, signals: Sequence[Signal]) -> list[tuple[int, str]]:
    return [(index, name) for index, signal in enumerate(signals) for name in bank.update(signal)]


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(0, [(340, "conflict"), (387, "nll")]), (1, [(344, "nll"), (477, "conflict")])],
)
def test_a_shift_is_found_soon_and_once(seed: int, expected: list[tuple[int, str]]) -> None:
    """The rate of conflict goes from 0.3 to 0.6, the NLL up by one standard deviation, both at document 300."""
    signals = list(stream(seed, (300, 0.3, 3.0), (300, 0.6, 4.0)))
    assert detections(DriftBank(SETTINGS), signals) == expected


@pytest.mark.parametrize("seed", [6, 7])
def test_a_steady_stream_raises_at_most_one_false_alarm_in_a_thousand(seed: int) -> None:
    found = detections(DriftBank(SETTINGS), list(stream(seed, (1000, 0.3, 3.0))))
    assert sum(name == "conflict" for _, name in found) <= 1
    assert sum(name == "nll" for _, name in found) <= 1


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_dropped_and_silence_nothing(broken: float) -> None:
    signals = list(stream(0, (300, 0.3, 3.0), (300, 0.6, 4.0)))
    expected = detections(DriftBank(SETTINGS), signals)
    bank = DriftBank(SETTINGS)
    found = []
    for index, signal in enumerate(signals):
        if index % 50 == 0:
            assert bank.update(Signal(broken, broken)) == []
        found += [(index, name) for name in bank.update(signal)]
    assert found == expected
    assert bank.dropped == 2 * 12


def test_one_bad_signal_leaves_the_other_alone() -> None:
    signals = [Signal(signal.conflict, math.nan) for signal in stream(0, (300, 0.3, 3.0), (300, 0.6, 4.0))]
    assert detections(DriftBank(SETTINGS), signals) == [(340, "conflict")]


@pytest.mark.parametrize("restart", [1, 250, 345])
def test_a_replay_gives_the_state_that_running_on_would_have(restart: int) -> None:
    signals = list(stream(0, (300, 0.3, 3.0), (300, 0.6, 4.0)))
    through = detections(DriftBank(SETTINGS), signals)
    resumed = detections(DriftBank(SETTINGS, signals[:restart]), signals[restart:])
    assert [(index + restart, name) for index, name in resumed] == [d for d in through if d[0] >= restart]


def test_a_constant_stream_is_no_drift() -> None:
    assert detections(DriftBank(SETTINGS), [Signal(1.0, 2.5)] * 500) == []
