"""How soon each drift detector finds a shift, and how often it imagines one.

    python -m benchmarks.drift --facts benchmarks/data/facts --json out.json

Synthetic: conflict rises from 0.3 to 0.6, the NLL by one standard deviation, after 300 of 600 documents; steady
streams of 1,000 for false alarms. Real: sentences of one domain of the facts, then of another one, embedded by the
encoder, for every pair of domains. Found: within 300 documents. All seeds are fixed.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

from torch import Tensor

from benchmarks import facts as fact_files
from benchmarks.stream import say
from consumer.drift import BINARY, DriftBank, Signal
from lmt2.config import Detector, DriftSettings, load
from lmt2.models.assets import model_path
from lmt2.models.encoder import Encoder
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


def on_domains(settings: DriftSettings, folder: Path, encoder: Encoder) -> dict[str, Any]:
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="a folder in the format of benchmarks/facts.py")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", type=Path, help="where to write the report")
    args = parser.parse_args()
    encoder = Encoder(model_path(load(Path("unused"), environment={}).model.encoder))
    report: dict[str, Any] = {}
    banks = {name: DriftSettings.model_validate({"detectors": [name]}) for name in get_args(Detector)}
    for bank, settings in {"the default": DriftSettings(), **banks}.items():
        watched = ["conflict"] if bank in BINARY else ["conflict", "nll"]
        report |= {f"{bank}, {name}": on_synthetic(settings, name, args.runs) for name in watched}
        if bank not in BINARY:
            report[f"{bank}, distance"] = on_domains(settings, args.facts, encoder)
        say(json.dumps({name: line for name, line in report.items() if name.startswith(f"{bank},")}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
