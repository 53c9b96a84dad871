"""Whether conflict tells what is new or changed from what is known, and what the consumer then does.

    python -m benchmarks.kaft --facts benchmarks/data/facts --seen seen.json --json out.json

The planted documents of `benchmarks/planted.py`. Printed: AUROC of the conflict score, and of cheaper signals, for
what is new or changed against what is known, by question and by document (mean of its questions), with 95 % intervals
(bootstrap over documents); what the consumer's worker does with each sort, with the reader and without one; how many
weights are clearly less than α.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.planted import Seen, seen
from benchmarks.stream import say
from consumer.kaft import BRIEFLY, Asked
from consumer.worker import STATES, ConsumerWorker
from lmt2.config import ConsumerSettings, Settings, load
from lmt2.events import DOCUMENTS, QuestionAnswer
from lmt2.ledger import DocumentRow, Ledger
from lmt2.models.base import Conversation, Sampling
from lmt2.models.encoder import Embeds, Remembering
from lmt2.pipeline import Parts
from lmt2.scoring import hit
from lmt2.study.prompts import NOT_STATED
from lmt2.study.scholar import Scholar
from lmt2.transport.base import Record

Values = list[list[float]]  # by document, one for each question
SIGNALS: Mapping[str, Callable[[Asked], float]] = {
    "conflict": lambda x: x.conflict,
    "share of sampled answers that are wrong": lambda x: 1 - x.right,
    "greedy answer wrong": lambda x: 1.0 - hit(x.texts[0], [x.lesson.answer]),
    "NLL of the right answer": lambda x: x.nll,
}
RESAMPLED = 1000


def auroc(high: Sequence[float], low: Sequence[float]) -> float:
    """The chance that a high value is above a low one, ties counted half.

    >>> auroc([3, 2], [1, 2])
    0.875
    """
    ordered = np.sort(low)
    below, up_to = (np.searchsorted(ordered, high, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(ordered))


def by_question(documents: Values) -> list[float]:
    """All questions' values."""
    return [value for values in documents for value in values]


def by_document(documents: Values) -> list[float]:
    """Each document's mean."""
    return [fmean(values) for values in documents]


def interval(high: Values, low: Values, flat: Callable[[Values], list[float]]) -> tuple[float, float]:
    """The middle 95 % of the AUROC over resampled documents: questions of one document aren't independent."""
    rng = np.random.default_rng(0)

    def again(documents: Values) -> list[float]:
        return flat([documents[n] for n in rng.integers(len(documents), size=len(documents))])

    low_end, high_end = np.quantile([auroc(again(high), again(low)) for _ in range(RESAMPLED)], [0.025, 0.975])
    return float(low_end), float(high_end)


def separation(found: Sequence[Seen], signal: Callable[[Asked], float]) -> dict[str, str]:
    """AUROC with its interval: all that is new or changed against what is known, and each sort of it."""
    values = {sort: [[signal(x) for x in doc.asked] for doc in found if doc.sort == sort] for sort in sorts(found)}
    known = values.pop("known")
    everything = [documents for group in values.values() for documents in group]
    lines: dict[str, str] = {}
    for name, flat in {"question": by_question, "document": by_document}.items():
        for sort, high in {"all": everything, **values}.items():
            bounds = interval(high, known, flat)
            lines[f"{sort}, by {name}"] = f"{auroc(flat(high), flat(known)):.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"
    return lines


def sorts(found: Sequence[Seen]) -> list[str]:
    """The sorts in the order of the stream."""
    return list(dict.fromkeys(document.sort for document in found))


def weights(found: Sequence[Seen], settings: ConsumerSettings) -> dict[str, str]:
    """How many questions of each sort KaFT makes weigh clearly less than α, and what all weigh on the mean."""
    by_sort = {sort: [doc.score(settings).weights for doc in found if doc.sort == sort] for sort in sorts(found)}
    flat = {sort: [w for row in rows for w in row.values()] for sort, rows in by_sort.items()}
    return {
        sort: f"{sum(w < 0.9 * settings.alpha for w in row)}/{len(row)} below 0.9 α, mean {fmean(row):.2f}"
        for sort, row in flat.items()
    }


class Replay:
    """The probe, saying again what it said when a document was asked about."""

    def __init__(self, document: Seen) -> None:
        self.document = document

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """The greedy answer, or the sampled ones in turn."""
        texts = {x.lesson.question: iter(x.texts[sampling.temperature > 0 :]) for x in self.document.asked}
        return [next(texts[conversation[-1]["content"]]) for conversation in conversations]

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """A right answer's log-likelihood as if it were one token, sure after a question about nothing."""
        nlls = {(f"{x.lesson.question} {BRIEFLY}", x.lesson.answer): x.nll for x in self.document.asked}
        questions = [conversation[-1]["content"] for conversation in conversations]
        return [[-nlls.get(pair, 0.0)] for pair in zip(questions, answers, strict=True)]


class Reader(Scholar):
    """A scholar that reads, and writes nothing: the questions are at hand."""

    def write(self, passage: str, wanted: Sequence[Any], seed: int, temperature: float) -> list[tuple[str, str]]:  # noqa: ARG002
        """No questions."""
        return [("", "")] * len(wanted)


class NoReader(Reader):
    """A scholar that finds nothing in any passage, so that no earlier document is known to say otherwise."""

    def read(self, passage: str, questions: Sequence[str]) -> list[str]:  # noqa: ARG002
        """Nothing for any question."""
        return [NOT_STATED] * len(questions)


def triage(found: Sequence[Seen], settings: Settings, scholar: Scholar, encoder: Embeds) -> dict[str, Any]:
    """What the consumer's own worker does with the documents, one after the other: by sort, and why."""
    ledger = Ledger(settings.ledger_url)
    ledger.migrate()
    probe = Replay(found[0])
    worker = ConsumerWorker(settings, ledger, scholar, probe, encoder)
    for place, one in enumerate(found):
        probe.document = one
        pairs = tuple(QuestionAnswer(question=x.lesson.question, answer=x.lesson.answer) for x in one.asked)
        value = one.document.model_copy(update={"qa": pairs}).model_dump_json(exclude_defaults=True).encode()
        outcome = worker.work(Record(DOCUMENTS, 0, place, value, timestamp=0.0))
        with ledger.begin() as session:
            outcome.effect(session)
    with ledger.begin() as session:
        rows = {one.document.id: session.get_one(DocumentRow, one.document.id) for one in found}
        became = [(one.sort, rows[one.document.id].state, rows[one.document.id].reason) for one in found]
    ledger.close()
    return {sort: _counted(became, sort) for sort in sorts(found)}


def _counted(became: Sequence[tuple[str, str, str]], sort: str) -> dict[str, Any]:
    states = Counter(state for of, state, _ in became if of == sort)
    reasons = Counter(reason for of, _, reason in became if of == sort)
    return {action: states[state] for action, state in STATES.items()} | {"why": dict(reasons)}


def arms(found: Sequence[Seen], parts: Parts) -> Iterator[tuple[str, dict[str, Any]]]:
    """The triage with the document's reader and without one; documents of as few as three facts count."""
    reader = parts.scholar.reader
    encoder = Remembering(parts.encoder)  # the consumer looks through all earlier questions for every document
    for name, scholar in {"with the reader": Reader(reader, reader), "without": NoReader(reader, reader)}.items():
        consumer = parts.settings.consumer.model_copy(update={"min_lessons": 3})
        with tempfile.TemporaryDirectory() as home:
            settings = parts.settings.model_copy(update={"home": Path(home), "consumer": consumer})
            yield name, triage(found, settings, scholar, encoder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="a folder in the format of benchmarks/facts.py")
    parser.add_argument("--seen", type=Path, help="where the probe's answers are kept between runs")
    parser.add_argument("--json", type=Path, help="where to write the report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        parts = Parts(load(Path(home)))
        found = seen(args.seen, args.facts, parts.model, parts.encoder)
        right = [hit(x.texts[0], [x.lesson.answer]) for one in found if one.sort == "known" for x in one.asked]
        report: dict[str, Any] = {
            "documents": Counter(one.sort for one in found),
            "known, right greedily": f"{sum(right)}/{len(right)}",
            "AUROC": {name: separation(found, signal) for name, signal in SIGNALS.items()},
            "weights": weights(found, parts.settings.consumer),
            "triage": dict(arms(found, parts)),
        }
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
