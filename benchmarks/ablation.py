"""What each part of studying and training brings: the same documents, seeds and steps, one part changed at a time.

Methods of learning are added to what is the default, each beside its control (benchmarks/controls.py).

    python -m benchmarks.ablation --facts benchmarks/data/facts --first 6 --seeds 3 --json out.json
    python -m benchmarks.ablation --facts benchmarks/data/facts --only ours --only "one round"

Each document is structured and learnt by itself, and its questions are asked closed book through its own shard, so
neither router nor gate has a say. Printed: right answers with a 95 % interval (Wilson), seconds a document, and
the learner's figures, the mean of the documents.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import facts as fact_files
from benchmarks.controls import at_random, shuffled, teacher_answers, unfiltered, unverified
from benchmarks.facts import Facts
from benchmarks.stream import ask, by_kind, closed_book, marks, say
from consumer.structuring import Structured, structure
from learner.hand import Figures
from learner.learn import interact
from learner.master import reflection, yoda
from learner.methods import METHODS, Build
from learner.teach import by_teaching
from learner.worker import Learner
from lmt2.config import Method, Settings, load
from lmt2.events import Document, UpdateRequest
from lmt2.pipeline import Parts
from lmt2.study.lessons import LessonWriter
from lmt2.study.scholar import Scholar
from memory.versioned import ShardModel


@dataclass(frozen=True)
class Variant:
    """What is changed: settings; methods for their controls; lister or gaps left out; facts drawn by their lessons."""

    study: Mapping[str, Any] = field(default_factory=dict)
    learner: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[Method, Build] = field(default_factory=dict)
    has_lister: bool = True
    has_gaps: bool = True
    draws_evenly: bool = True


INTERACT = {"methods": ("prompt_distillation", "interact")}
YODA = {"methods": ("prompt_distillation", "yoda")}
TEACHING = {"methods": ("prompt_distillation", "by_teaching")}
REFLECTION = {"methods": ("reflection",), "rounds": 2}
VARIANTS: Mapping[str, Variant] = {
    "ours": Variant(),
    "without the check": Variant(study={"check": False}),
    "answers found by rule only": Variant(has_lister=False),
    "every phrasing, not the surest": Variant(study={"phrasings": 99}),
    "no experts for facts": Variant(learner={"shared_rank": 16, "expert_rank": 0}),
    "no gaps for facts without a lesson": Variant(has_gaps=False),
    "drawn by lesson": Variant(draws_evenly=False),
    "broken questions too": Variant(learner={"broken": 1}),
    "in two rounds": Variant(learner={"rounds": 2}),
    "one round of writing": Variant(study={"rounds": 1}),
    "answers alone, no teacher": Variant(learner={"distil": False}),
    "interact": Variant(learner=INTERACT),
    "interact, asking at random": Variant(
        learner=INTERACT, methods={"interact": partial(interact.build, choose=at_random)}
    ),
    "yoda": Variant(learner=YODA),
    "yoda, unverified": Variant(learner=YODA, methods={"yoda": partial(yoda.build, keep=unverified)}),
    "yoda's questions, the teacher's answers": Variant(learner=YODA, methods={"yoda": teacher_answers}),
    "learning by teaching": Variant(learner=TEACHING),
    "learning by teaching, unfiltered": Variant(
        learner=TEACHING, methods={"by_teaching": partial(by_teaching.build, choose=unfiltered)}
    ),
    "reflection": Variant(learner=REFLECTION),
    "reflection, shuffled": Variant(
        learner=REFLECTION, methods={"reflection": partial(reflection.build, look=shuffled)}
    ),
}


@dataclass(frozen=True)
class Run:
    """Which questions were answered rightly, in the order of the documents; seconds and figures, a document's mean."""

    right: list[bool]
    seconds: float
    figures: Mapping[str, float]


class NoLister(Scholar):
    """A scholar that lists nothing: the rule for names and numbers is all there is."""

    def list_answers(self, passage: str, sentences: Sequence[str]) -> list[list[str]]:  # noqa: ARG002
        """Nothing for any sentence."""
        return [[] for _ in sentences]


class Bench:
    """Structures and learns documents by themselves; what was structured alike is structured once."""

    def __init__(self, settings: Settings, stream: Facts) -> None:
        self._settings = settings
        self._parts = Parts(settings)
        self._stream = stream
        self._structured: dict[tuple[str, str], tuple[Structured, float]] = {}

    def run(self, variant: Variant, seed: int) -> Run:
        """Every document by itself."""
        learner = self._settings.learner.model_copy(update={**variant.learner, "seed": seed})
        settings = self._settings.model_copy(update={"learner": learner})
        methods = {**METHODS, **variant.methods}
        skills = Learner(settings, self._parts.model, self._parts.scholar, self._parts.encoder, methods)
        right: list[bool] = []
        figures: list[Figures] = []
        seconds = 0.0
        for document in self._stream.documents:
            found, spent = self._study(document, variant)
            started = time.monotonic()
            marked, told = self._learn(document, found, skills, variant)
            right += marked
            figures.append(told)
            seconds += spent + time.monotonic() - started
        return Run(right, seconds / len(self._stream.documents), means(figures))

    def _study(self, document: Document, variant: Variant) -> tuple[Structured, float]:
        key = document.id, f"{variant.study} {variant.has_lister}"
        if key not in self._structured:
            scholar = self._parts.scholar
            chosen = scholar if variant.has_lister else NoLister(scholar.reader, scholar.writer, scholar.briefing)
            study = self._settings.study.model_copy(update=variant.study)
            started = time.monotonic()
            found = structure(document, LessonWriter(chosen, self._parts.encoder, study))
            self._structured[key] = found, time.monotonic() - started
        return self._structured[key]

    def _learn(
        self, document: Document, found: Structured, skills: Learner, variant: Variant
    ) -> tuple[list[bool], Figures]:
        asked = [q for q in self._stream.questions if q.document == document.id]
        if not found.lessons:
            return [False] * len(asked), {}
        lessons = (*found.lessons, *(found.gaps if variant.has_gaps else ()))
        if not variant.draws_evenly:
            lessons = tuple(x.model_copy(update={"fact": x.question}) for x in lessons)
        request = UpdateRequest(
            id="ablation",
            documents=(document,),
            lessons=lessons,
            probes=(),
            replaces=(),
            reason="ablation",
            event_time=datetime.now(UTC),
        )
        shard, figures = skills.learn(request, lambda *_: None)
        trained = ShardModel(self._parts.model, self._parts.encoder, shard)
        return marks(asked, ask(trained, closed_book(asked)), {document.id}), figures


def means(figures: Sequence[Figures]) -> dict[str, float]:
    """The mean of every figure that is a number, over the documents that have it."""
    names = dict.fromkeys(name for told in figures for name, value in told.items() if not isinstance(value, str))
    return {name: round(fmean(float(told[name]) for told in figures if name in told), 3) for name in names}


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    >>> [round(bound, 2) for bound in wilson(5, 10)]
    [0.24, 0.76]
    """
    z, share = 1.96, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    reach = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return middle - reach, middle + reach


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="a folder in the format of benchmarks/facts.py")
    parser.add_argument("--first", type=int, help="only the first documents")
    parser.add_argument("--every", type=int, default=1, help="of those only every n-th")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="a variant; several are allowed")
    parser.add_argument("--json", type=Path, help="where to write the report")
    args = parser.parse_args()
    stream = fact_files.read(args.facts, args.first)
    stream = replace(stream, documents=stream.documents[:: args.every])
    names = {document.id for document in stream.documents}
    stream = replace(stream, questions=tuple(q for q in stream.questions if q.document in names))
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(load(Path(home)), stream)
        for name in args.only or VARIANTS:
            runs = [bench.run(VARIANTS[name], seed) for seed in range(args.seeds)]
            right = [r for run in runs for r in run.right]
            low, high = wilson(sum(right), len(right))
            report[name] = {
                "right": f"{sum(right)}/{len(right)} ({low:.0%} to {high:.0%})",
                "by kind": by_kind(list(stream.questions) * args.seeds, right),
                "seeds": [sum(run.right) for run in runs],
                "seconds a document": round(fmean(run.seconds for run in runs), 1),
                "figures": means([{**run.figures} for run in runs]),
            }
            say(f"{name}: {json.dumps(report[name])}")
            if args.json:
                args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
