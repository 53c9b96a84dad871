"""Plots of the benchmarks as SVG: the same numbers give the same bytes, so that a changed plot is a changed result."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

SMOOTH = 20  # documents of a moving mean


def drift_plot(
    file: Path, series: Mapping[str, Sequence[float]], alarms: Mapping[str, Sequence[int]], shifts: Sequence[int]
) -> None:
    """The signals of a stream, each as a moving mean, with the stream's shifts (dotted) and the alarms (red)."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(len(series), sharex=True), series.items(), strict=True):
        axes.plot(np.arange(SMOOTH, len(values) + 1), np.convolve(values, np.ones(SMOOTH) / SMOOTH, "valid"))
        for shift in shifts:
            axes.axvline(shift, color="gray", linestyle=":")
        for number in alarms[name]:
            axes.axvline(number, color="red")
        axes.set_ylabel(name)
    axes.set_xlabel(f"documents (moving mean of {SMOOTH}; dotted: shift, red: alarm)")
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "lmt2", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None, "Creator": None})
