"""Drift detection: a bank of River's detectors over signals of the frozen probe model and of the documents.

The signals are a document's conflict rate, its standardised answer NLL, and the distance of its embedding from a
window of reference; never the live model's loss, which falls as the model learns and would hide a drift. Each
detector votes, and a named rule says how many votes are a drift. A bank belongs to one partition, whose documents
have an order; it is rebuilt by replaying the ledger's signal values, so its state needs no file of its own (and no
pickle), and a partition that moves to another consumer takes it along.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from river import drift
from river.stats import Mean, Var
from torch import Tensor

from lmt2.config import DriftSettings

RECENT = 500  # documents among which the time of a change is looked for
AT_LEAST = 5  # documents on either side of a change
BINARY = {"DDM", "HDDM_A", "HDDM_W"}  # detectors of a rate of errors; they can only watch a yes or no
NEEDED: Mapping[str, Callable[[int], int]] = {
    "any": lambda detectors: 1,  # noqa: ARG005
    "majority": lambda detectors: detectors // 2 + 1,
    "all": lambda detectors: detectors,
}


@dataclass(frozen=True)
class Signal:
    """What one document says: conflict 0…1, answer NLL as in `consumer.kaft.Asked`, embedding [E] of unit length."""

    conflict: float
    nll: float
    embedding: Tensor | None = None


@dataclass(frozen=True)
class Detection:
    """A detector's vote.

    Attributes:
        detector: by its name in the configuration.
        signal: what it watched.
        statistic: the largest two-sample z over all times of a change among the recent values (CUSUM).
        delay: documents since that time.
    """

    detector: str
    signal: str
    statistic: float
    delay: int


@dataclass(frozen=True)
class Watched:
    """What came of one document: the votes, and the signals that drifted by the rule."""

    votes: tuple[Detection, ...] = ()
    drifted: tuple[str, ...] = ()


class DriftBank:
    """The detectors of one partition. Values that aren't finite are left out: one NaN would silence ADWIN for ever."""

    def __init__(self, settings: DriftSettings) -> None:
        self._signals = {name: _Watch(name, settings) for name in ("conflict", "nll", "distance")}
        self._standard, self._reference = _Standard(), _Reference(settings.reference)

    def update(self, signal: Signal) -> Watched:
        """Feed one document."""
        values = {
            "conflict": signal.conflict,
            "nll": self._standard(signal.nll),
            "distance": self._reference(signal.embedding),
        }
        votes: list[Detection] = []
        drifted = []
        for name, value in values.items():
            if math.isfinite(value):
                cast, is_drift = self._signals[name].update(value)
                votes += cast
                drifted += [name] if is_drift else []
        if "distance" in drifted:
            self._reference.begin_anew()
        return Watched(tuple(votes), tuple(drifted))

    def replay(self, history: Iterable[Signal]) -> None:
        """Feed documents that were reported already."""
        for signal in history:
            self.update(signal)


class _Watch:
    """The detectors of one signal, and who voted of late."""

    def __init__(self, signal: str, settings: DriftSettings) -> None:
        self._signal = signal
        names = [name for name in settings.detectors if signal == "conflict" or name not in BINARY]
        self._detectors = {name: _detector(name, settings) for name in names}
        self._needed = NEEDED[settings.rule](len(names))
        self._keeps = settings.votes_last
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._votes: dict[str, int] = {}  # by detector, documents ago

    def update(self, value: float) -> tuple[list[Detection], bool]:
        self._recent.append(value)
        self._votes = {name: age + 1 for name, age in self._votes.items() if age < self._keeps}
        cast = []
        for name, detector in self._detectors.items():
            detector.update(value >= 0.5 if name in BINARY else value)
            if detector.drift_detected:
                statistic, delay = change(list(self._recent))
                cast.append(Detection(name, self._signal, statistic, delay))
                self._votes[name] = 0
        is_drift = bool(cast) and len(self._votes) >= self._needed
        if is_drift:
            self._votes = {}
        return cast, is_drift


class _Standard:
    """An NLL's deviations from the mean so far, as a number in 0…1, which ADWIN's bound assumes."""

    def __init__(self) -> None:
        self._mean, self._variance = Mean(), Var()

    def __call__(self, nll: float) -> float:
        if not math.isfinite(nll):
            return nll
        self._mean.update(nll)
        self._variance.update(nll)
        deviation = math.sqrt(self._variance.get()) if self._variance.get() > 0 else 1.0
        return 1 / (1 + math.exp(-(nll - self._mean.get()) / deviation))


class _Reference:
    """Half the cosine distance, 0…1, from the mean embedding of the first documents; NaN until there are enough."""

    _sum: Tensor  # a cosine doesn't depend on its length
    _seen: int

    def __init__(self, size: int) -> None:
        self._size = size
        self.begin_anew()

    def __call__(self, embedding: Tensor | None) -> float:
        if embedding is None or not bool(torch.isfinite(embedding).all()):
            return math.nan
        if self._seen < self._size:
            self._sum, self._seen = self._sum + embedding.float(), self._seen + 1
            return math.nan
        return 0.5 * (1 - float(torch.cosine_similarity(self._sum, embedding.float(), dim=0)))

    def begin_anew(self) -> None:
        """The next documents are the reference: what was far is usual now."""
        self._sum, self._seen = torch.zeros(1), 0


def change(values: list[float]) -> tuple[float, int]:
    """When a series most likely changed: the largest two-sample z, and how many values came since.

    >>> statistic, delay = change([0.0, 0.1] * 20 + [1.0, 0.9] * 5)
    >>> round(statistic, 1), delay
    (49.9, 10)
    """
    if len(values) < 2 * AT_LEAST:
        return 0.0, len(values)
    series = np.asarray(values)
    before = np.arange(AT_LEAST, len(series) - AT_LEAST + 1)
    after = len(series) - before
    sums, squares = np.cumsum(series), np.cumsum(series**2)
    old, new = sums[before - 1] / before, (sums[-1] - sums[before - 1]) / after
    pooled = (squares[-1] - before * old**2 - after * new**2) / max(1, len(series) - 2)
    z = np.abs(new - old) / np.sqrt(np.maximum(pooled, 1e-12) * (1 / before + 1 / after))
    place = int(z.argmax())
    return float(z[place]), int(after[place])


def _detector(name: str, settings: DriftSettings) -> Any:
    made: Mapping[str, Callable[[], Any]] = {
        "ADWIN": lambda: drift.ADWIN(delta=settings.delta, clock=settings.clock),
        "KSWIN": lambda: drift.KSWIN(seed=0),
        "PageHinkley": drift.PageHinkley,
        "DDM": drift.binary.DDM,
        "HDDM_A": drift.binary.HDDMA,
        "HDDM_W": drift.binary.HDDMW,
    }
    return made[name]()
