"""How soon each drift detector finds a shift, and how often it imagines one.

    python -m benchmarks.drift --facts benchmarks/data/facts --seen seen.json --plot docs/plots --json out.json

Synthetic: conflict rises from 0.3 to 0.6, the NLL by one standard deviation, after 300 of 600 documents; steady
streams of 1,000 for false alarms. Sentences: of one domain of the facts, then of another one, embedded by the encoder,
for every pair of domains. Documents: 300 of common knowledge, 300 of one domain of the facts, 300 of another one, drawn
from the planted documents (`benchmarks/planted.py`) with replacement, with the conflict and NLL that the probe gives
them and their embeddings. Found: within 300 documents. All seeds are fixed.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks import facts as fact_files
from benchmarks.planted import Seen, seen
from benchmarks.plots import drift_plot
from benchmarks.stream import say
from consumer.drift import BINARY, DriftBank, Signal
from lmt2.config import ConsumerSettings, Detector, DriftSettings, load
from lmt2.models.assets import model_path
from lmt2.models.encoder import Embeds, Encoder
from lmt2.models.local import LocalModel
from lmt2.study.passages import sentences

BEFORE, AFTER, STEADY = 300, 300, 1000


def synthetic(seed: int, length: int, shift_at: int) -> Iterator[Signal]:
    """A stream whose conflict and NLL rise at a document."""
    rng = random.Random(seed)
    for number in range(length):
        is_new = number >= shift_at
        yield Signal(float(rng.random() < (0.6 if is_new else 0.3)), rng.gauss(3.0 + is_new, 1))


def domains(seed: int, old: Sequence[Tensor], new: Sequence[Tensor]) -> Iterator[Signal]:
    """Sentences of one domain, then of another one, drawn with replacement."""
    rng = random.Random(seed)
    for number in range(BEFORE + AFTER):
        yield Signal(0.0, 0.0, rng.choice(old if number < BEFORE else new))


def first_after(bank: DriftBank, signals: Iterator[Signal], watched: str, start: int) -> tuple[int | None, int]:
    """Documents from the shift to the first drift after it, and how many there were before it."""
    early = 0
    for number, signal in enumerate(signals):
        if watched in bank.update(signal).drifted:
            if number >= start:
                return number + 1 - start, early
            early += 1
    return None, early


def row(delays: Sequence[int | None], early: int, of: int) -> dict[str, Any]:
    """A line of the report; `early` false alarms among `of` documents."""
    found = [delay for delay in delays if delay is not None]
    return {
        "found": f"{len(found)}/{len(delays)}",
        "median delay": median(found) if found else None,
        "false alarms in 1,000": round(1000 * early / of, 2),
    }


def on_synthetic(settings: DriftSettings, watched: str, runs: int) -> dict[str, Any]:
    """A bank on the synthetic shifts, and on steady streams."""
    shifted = (synthetic(seed, BEFORE + AFTER, BEFORE) for seed in range(runs))
    delays = [first_after(DriftBank(settings), signals, watched, BEFORE)[0] for signals in shifted]
    steady = (synthetic(10_000 + seed, STEADY, STEADY) for seed in range(runs))
    early = sum(first_after(DriftBank(settings), signals, watched, STEADY)[1] for signals in steady)
    return row(delays, early, runs * STEADY)


def on_domains(settings: DriftSettings, folder: Path, encoder: Embeds) -> dict[str, Any]:
    """A bank on the distance of real sentences, for each ordered pair of domains."""
    by_domain: dict[str, list[str]] = {}
    for document in fact_files.read(folder).documents:
        by_domain.setdefault(document.domain, []).extend(sentences(document.text))
    embedded = {name: list(encoder(texts)) for name, texts in by_domain.items()}
    pairs = [(old, new) for old in embedded for new in embedded if old != new]
    found = [
        first_after(DriftBank(settings), domains(seed, embedded[old], embedded[new]), "distance", BEFORE)
        for seed, (old, new) in enumerate(pairs)
    ]
    return row([delay for delay, _ in found], sum(early for _, early in found), len(pairs) * BEFORE)


class Documents:
    """Streams of planted documents: common knowledge, then one domain of the facts, then another one."""

    def __init__(self, found: Sequence[Seen]) -> None:
        self.known: list[Signal] = []
        by_domain: dict[str, list[Signal]] = {}
        for one in found:
            score = one.score(ConsumerSettings())
            signal = Signal(score.conflict, score.nll, torch.tensor(one.embedding))
            if one.sort == "known":
                self.known.append(signal)
            elif one.sort == "new":
                by_domain.setdefault(one.document.domain, []).append(signal)
        self.pairs = list(permutations(by_domain.values(), 2))

    def shifting(self, seed: int) -> Iterator[Signal]:
        """Documents of the three phases in a random order."""
        rng = random.Random(seed)
        for phase in (self.known, *self.pairs[seed % len(self.pairs)]):
            yield from (rng.choice(phase) for _ in range(BEFORE))

    def steady(self, seed: int) -> Iterator[Signal]:
        """Common knowledge alone."""
        rng = random.Random(seed)
        return (rng.choice(self.known) for _ in range(STEADY))


def alarms(settings: DriftSettings, signals: Iterator[Signal]) -> dict[str, list[int]]:
    """The documents at which a new bank finds each signal drifted."""
    bank = DriftBank(settings)
    found: dict[str, list[int]] = {"conflict": [], "nll": [], "distance": []}
    for number, signal in enumerate(signals):
        for name in bank.update(signal).drifted:
            found[name].append(number)
    return found


def on_documents(settings: DriftSettings, documents: Documents, runs: int) -> dict[str, dict[str, Any]]:
    """A bank on both shifts of the streams of documents, for each signal."""
    shifted = [alarms(settings, documents.shifting(seed)) for seed in range(runs)]
    steady = [alarms(settings, documents.steady(10_000 + seed)) for seed in range(runs)]
    report = {}
    for name in shifted[0]:
        early = sum(len(run[name]) for run in steady)
        for shift, start in {"known, then new": BEFORE, "one domain, then another": 2 * BEFORE}.items():
            after = [[n - start for n in run[name] if start <= n < start + AFTER] for run in shifted]
            line = row([found[0] + 1 if found else None for found in after], early, runs * STEADY)
            report[f"{name}, {shift}"] = line | {"alarms a shift": round(sum(map(len, after)) / runs, 2)}
    return report


def series(signals: Sequence[Signal]) -> dict[str, list[float]]:
    """The values of a stream as they are plotted: the distance is to the mean of the first phase."""
    embeddings = torch.stack([signal.embedding for signal in signals if signal.embedding is not None])
    nearness = torch.cosine_similarity(embeddings, embeddings[:BEFORE].mean(0, keepdim=True))
    return {
        "conflict": [signal.conflict for signal in signals],
        "nll": [signal.nll for signal in signals],
        "distance": (0.5 * (1 - nearness)).tolist(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="a folder in the format of benchmarks/facts.py")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seen", type=Path, help="where the probe's answers are kept between runs")
    parser.add_argument("--plot", type=Path, help="a folder for the plot")
    parser.add_argument("--json", type=Path, help="where to write the report")
    args = parser.parse_args()
    defaults = load(Path("unused"), environment={}).model
    encoder = Encoder(model_path(defaults.encoder))
    documents = Documents(seen(args.seen, args.facts, LocalModel(model_path(defaults.name), defaults.dtype), encoder))
    report: dict[str, Any] = {}
    banks = {name: DriftSettings.model_validate({"detectors": [name]}) for name in get_args(Detector)}
    for bank, settings in {"the default": DriftSettings(), **banks}.items():
        watched = ["conflict"] if bank in BINARY else ["conflict", "nll"]
        lines = {name: on_synthetic(settings, name, args.runs) for name in watched}
        if bank not in BINARY:
            lines["distance"] = on_domains(settings, args.facts, encoder)
        on_real = on_documents(settings, documents, args.runs)
        report[bank] = {"synthetic and sentences": lines, "documents": on_real}
        say(f"{bank}: {json.dumps(report[bank], indent=1)}")
    if args.plot:
        signals = list(documents.shifting(0))
        found = alarms(DriftSettings(), iter(signals))
        drift_plot(args.plot / "drift.svg", series(signals), found, (BEFORE, 2 * BEFORE))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
