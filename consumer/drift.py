"""Drift detection: River's ADWIN over two signals of the frozen probe model.

The signals are a document's conflict rate and its standardised answer NLL; never the live model's loss, which
falls as the model learns and would hide a drift. A detector is rebuilt after a restart by replaying the
ledger's newest signal values, so its state needs no file of its own (and no pickle).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from river.drift import ADWIN
from river.stats import Mean, Var

from lmt2.config import DriftSettings

SIGNALS = ("conflict", "nll")


@dataclass(frozen=True)
class Signal:
    """One document's values: conflict rate 0…1, and answer NLL in nats a token."""

    conflict: float
    nll: float


class DriftBank:
    """One ADWIN a signal. Values that aren't finite are dropped and counted: one NaN would silence ADWIN for ever."""

    def __init__(self, settings: DriftSettings, history: Iterable[Signal] = ()) -> None:
        self._detectors = {name: ADWIN(delta=settings.delta, clock=settings.clock) for name in SIGNALS}
        self._mean, self._variance = Mean(), Var()
        self.dropped = 0
        for signal in history:
            self.update(signal)

    def update(self, signal: Signal) -> list[str]:
        """Feed one document; the names of the signals that drifted."""
        values = {"conflict": signal.conflict, "nll": self._standardise(signal.nll)}
        drifted = []
        for name, value in values.items():
            if not math.isfinite(value):
                self.dropped += 1
                continue
            self._detectors[name].update(value)
            if self._detectors[name].drift_detected:
                drifted.append(name)
        return drifted

    def _standardise(self, nll: float) -> float:
        """Distance from the mean so far in standard deviations, as a number in 0…1, which ADWIN's bound assumes."""
        if not math.isfinite(nll):
            return nll
        self._mean.update(nll)
        self._variance.update(nll)
        deviation = math.sqrt(self._variance.get()) if self._variance.get() > 0 else 1.0
        return 1 / (1 + math.exp(-(nll - self._mean.get()) / deviation))
