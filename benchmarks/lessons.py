"""What becomes lessons: facts found, facts covered, pairs that are right, and how long it takes, check off and on.

    python -m benchmarks.lessons --documents benchmarks/data/facts     # ten documents, their facts listed by hand
    python -m benchmarks.lessons --documents kept-apart                # the shipped lessons' passages kept apart
    python -m benchmarks.lessons --marks benchmarks/data/marks.jsonl   # pairs marked by hand as right or wrong

A listed fact is found if the same answer was taken up, covered if three lessons or more have its answer. A marked
pair is a question that the writer wrote, with its answer; the check is asked again about each.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import facts as fact_files
from benchmarks.stream import say
from consumer.structuring import structure
from lmt2.config import Settings, load
from lmt2.events import Document
from lmt2.pipeline import Parts
from lmt2.study import train
from lmt2.study.lessons import COVERED, LessonWriter, Pair, same_answer
from lmt2.study.scholar import Fact


@dataclass(frozen=True)
class Listed:
    """A document and the answers of its facts, as a person listed them."""

    document: Document
    answers: tuple[str, ...]


def of_folder(folder: Path) -> list[Listed]:
    """The documents of a folder of facts that `listed.jsonl` knows."""
    documents = {document.id: document for document in fact_files.documents(folder)}
    answers: dict[str, list[str]] = {}
    for row in fact_files.rows(folder / "listed.jsonl"):
        answers.setdefault(row["document"], []).append(row["answer"])
    return [Listed(documents[name], tuple(found)) for name, found in answers.items()]


def kept_apart() -> list[Listed]:
    """The shipped passages that no adapter was trained on."""
    return [
        Listed(
            Document(id=passage["id"], text=passage["text"]),
            tuple(dict.fromkeys(pair["a"] for pair in passage["pairs"] if pair["kind"] == "direct")),
        )
        for passage in train.passages(held_out=True)
    ]


def measure(listed: Sequence[Listed], writer: LessonWriter) -> dict[str, Any]:
    """Structure every document; counts over all of them."""
    found = covered = facts = lessons = written = 0
    started = time.monotonic()
    for one in listed:
        result = structure(one.document, writer)
        pairs = [*result.lessons, *result.probes]
        counts = [sum(same_answer(pair.answer, answer) for pair in pairs) for answer in one.answers]
        found += sum(count > 0 for count in counts)
        covered += sum(count >= COVERED for count in counts)
        facts, lessons, written = facts + len(counts), lessons + len(pairs), written + result.written
        say(f"{one.document.id}: {sum(c >= COVERED for c in counts)}/{len(counts)} covered, {len(pairs)} lessons")
    seconds = (time.monotonic() - started) / len(listed)
    return {
        "facts listed by hand": facts,
        "asked for in at least one lesson": f"{found} ({found / facts:.0%})",
        f"asked for in at least {COVERED}": f"{covered} ({covered / facts:.0%})",
        "questions written": written,
        "lessons kept": lessons,
        "seconds a document": round(seconds, 1),
    }


def check_marked(marks: Path, writer: LessonWriter) -> dict[str, str]:
    """Of pairs marked by hand, how many are right: all of them, and those that the check keeps."""
    rows = fact_files.rows(marks)
    by_passage: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_passage.setdefault(row["passage"], []).append(row)
    kept = [row for passage, here in by_passage.items() for row in _kept(passage, here, writer)]
    right = [row for row in rows if row["right"]]
    sure = sorted(kept, key=lambda row: -float(row["surety"]))
    return {
        "check off": _share(rows),
        "check on": _share(kept),
        "check on, the surer half": _share(sure[: len(sure) // 2]),
        "check on, the surest quarter": _share(sure[: len(sure) // 4]),
        "right pairs that the check keeps": f"{sum(row['right'] for row in kept)}/{len(right)}",
    }


def _kept(passage: str, rows: Sequence[dict[str, Any]], writer: LessonWriter) -> Iterator[dict[str, Any]]:
    by_question = {(row["question"], row["answer"]): row for row in rows}
    pairs = [
        Pair(q, answer, "direct", Fact(answer, train.sentence_of(passage, q, answer))) for q, answer in by_question
    ]
    for pair in writer.weighed(passage, writer.confirmed(passage, pairs)):
        yield by_question[pair.question, pair.answer] | {"surety": pair.surety}


def _share(rows: Sequence[dict[str, Any]]) -> str:
    right = sum(row["right"] for row in rows)
    return f"{right}/{len(rows)} right ({right / max(1, len(rows)):.0%})"


def _writer(parts: Parts, settings: Settings, check: bool) -> LessonWriter:
    return LessonWriter(parts.scholar, parts.encoder, settings.study.model_copy(update={"check": check}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", help="a folder with docs.jsonl and listed.jsonl, or kept-apart")
    parser.add_argument("--marks", type=Path, help="a file of marked pairs")
    parser.add_argument("--first", type=int, help="only the first documents")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        settings = load(Path(home))
        parts = Parts(settings)
        report: dict[str, Any] = {}
        if args.documents:
            listed = kept_apart() if args.documents == "kept-apart" else of_folder(Path(args.documents))
            for check in (False, True):
                name = f"check {'on' if check else 'off'}"
                report[name] = measure(listed[: args.first], _writer(parts, settings, check))
        if args.marks:
            report["marks"] = check_marked(args.marks, _writer(parts, settings, check=True))
    say(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
