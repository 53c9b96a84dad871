"""The dashboard: stream documents through the real stages and ask, closed book, what is known at the end.

    python -m benchmarks.stream --facts benchmarks/data/facts --first 24 --json out.json
    python -m benchmarks.stream --facts DIR --stages 4 --without-gate

The stages' own code runs, one record after the other in one process. Printed: the matrix R[i, j] (accuracy on
the documents of stage j after stage i), accuracy by kind at the end of the stream beside what a user could have
instead (the base model closed book, and the base model or the reader with the document, or with the one that BM25
finds, in context), unrelated questions before and after, seconds and tokens. Free generation, greedy, 32 tokens.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bm25s

from benchmarks import facts as fact_files
from benchmarks.facts import Facts, Question
from consumer.worker import ConsumerWorker
from gate.worker import GateWorker
from learner.worker import Learner, LearnerWorker
from lmt2.artifacts import ArtifactStore
from lmt2.config import Settings, load
from lmt2.events import CANDIDATES, DOCUMENTS, Candidate, Document, decode
from lmt2.ledger import DecisionRow, DocumentRow, Ledger, PromotionRow, UpdateRow, VersionRow, desired_version
from lmt2.models.base import Conversation, LanguageModel, Sampling
from lmt2.models.encoder import Embeds
from lmt2.models.local import LocalModel
from lmt2.pipeline import Parts
from lmt2.scoring import hit
from lmt2.stage import Outcome, Worker
from lmt2.study import prompts
from lmt2.study.passages import passages
from lmt2.study.scholar import Scholar
from lmt2.transport.base import Record
from memory.versioned import Shelf, VersionedModel
from memory.versions import Manifest

ANSWER = Sampling(max_new_tokens=32)


class PromoteAll(Worker):
    """Stands in for the gate with --without-gate: what was trained is promoted."""

    name = "gate"
    topic = CANDIDATES

    def work(self, record: Record) -> Outcome:
        """Promote the candidate."""
        candidate, _ = decode(record.value, Candidate)

        def effect(session: Any) -> None:
            session.add(PromotionRow(version_id=candidate.version, cause="promotion", decision=candidate.version))
            update = session.get(UpdateRow, candidate.update)
            for document in update.payload["documents"]:
                session.get(DocumentRow, document["id"]).state = "learnt"

        return Outcome(effect)


@dataclass
class System:
    """All parts of a run, with their state in a folder of its own."""

    settings: Settings
    model: LocalModel
    encoder: Embeds
    scholar: Scholar
    ledger: Ledger
    store: ArtifactStore
    workers: dict[str, Worker] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def stream(self, document: Document) -> None:
        """Take one document all the way through."""
        value = document.model_dump_json(exclude_defaults=True).encode()
        waiting = [Record(DOCUMENTS, 0, 0, value, timestamp=time.time())]
        while waiting:
            record = waiting.pop(0)
            worker = self.workers[record.topic]
            started = time.monotonic()
            outcome = worker.work(record)
            self.seconds[worker.name] = self.seconds.get(worker.name, 0.0) + time.monotonic() - started
            with self.ledger.begin() as session:
                more = outcome.effect(session) or ()
            sent = [*outcome.records, *more]
            waiting += [Record(o.topic, 0, 0, o.value) for o in sent if o.topic in self.workers]

    def served(self) -> VersionedModel:
        """The promoted version."""
        with self.ledger.begin() as session:
            row = session.get(VersionRow, desired_version(session))
            assert row is not None
            manifest = Manifest.model_validate(row.manifest)
        return VersionedModel(self.model, self.encoder, Shelf(self.store, self.model), manifest)


def build(settings: Settings, with_gate: bool) -> System:
    """The stages on an empty ledger."""
    parts = Parts(settings)
    model, encoder, ledger, store = parts.model, parts.encoder, parts.ledger, parts.store
    stages: list[Worker] = [
        ConsumerWorker(settings, ledger, parts.scholar, model, encoder),
        LearnerWorker(settings, ledger, store, Learner(settings, model, parts.scholar, encoder)),
        GateWorker(settings, ledger, store, model, encoder) if with_gate else PromoteAll(),
    ]
    return System(settings, model, encoder, parts.scholar, ledger, store, {stage.topic: stage for stage in stages})


def ask(model: LanguageModel, tasks: Sequence[Conversation]) -> list[str]:
    """Greedy answers."""
    return model.generate(tasks, ANSWER)


def closed_book(questions: Iterable[Question]) -> list[Conversation]:
    """The questions alone."""
    return [[prompts.user(q.text)] for q in questions]


def in_context(questions: Iterable[Question], stream: Facts) -> list[Conversation]:
    """The questions with their document in front, or the newer one where it supersedes the answer."""
    by_name = {d.id: d for d in stream.documents}
    sources = [by_name[q.superseded_by] if q.superseded_by in by_name else by_name[q.document] for q in questions]
    return [prompts.read("\n\n".join(passages(d)), q.text) for d, q in zip(sources, questions, strict=True)]


def retrieved(questions: Sequence[Question], stream: Facts) -> list[Conversation]:
    """The questions with the document in front that BM25 ranks first."""
    texts = [f"{d.title}\n\n{d.text}" for d in stream.documents]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    asked = bm25s.tokenize([q.text for q in questions], show_progress=False)
    best = index.retrieve(asked, k=1, show_progress=False).documents[:, 0].tolist()
    return [prompts.read(texts[n], q.text) for n, q in zip(best, questions, strict=True)]


def marks(questions: Sequence[Question], answers: Sequence[str], seen: set[str]) -> list[bool]:
    """Right or wrong, by what should be known once `seen` documents were streamed."""
    return [hit(text, q.accepted(seen)) for q, text in zip(questions, answers, strict=True)]


def by_kind(questions: Sequence[Question], right: Sequence[bool]) -> dict[str, str]:
    """Right of all, for each kind and in total."""
    kinds = sorted({q.kind for q in questions})
    rows = {k: [r for q, r in zip(questions, right, strict=True) if q.kind == k] for k in kinds} | {"all": list(right)}
    return {kind: f"{sum(row)}/{len(row)}" for kind, row in rows.items()}


def run(stream: Facts, system: System, stages: int) -> dict[str, Any]:
    """Stream everything; the report."""
    everything, questions = {d.id for d in stream.documents}, stream.questions
    report: dict[str, Any] = {"documents": len(stream.documents), "questions": len(questions), "R": []}
    say("measuring the base model and the ceilings")
    with_document, with_found = in_context(questions, stream), retrieved(questions, stream)
    lines = {
        "base, closed book": ask(system.model, closed_book(questions)),
        "base, document in context": ask(system.model, with_document),
        "reader, document in context": ask(system.scholar.reader, with_document),
        "base, BM25's first document in context": ask(system.model, with_found),
        "reader, BM25's first document in context": ask(system.scholar.reader, with_found),
    }
    before = ask(system.model, closed_book(stream.unrelated))
    size = -(-len(stream.documents) // stages)
    groups = [stream.documents[n : n + size] for n in range(0, len(stream.documents), size)]
    seen: set[str] = set()
    for number, group in enumerate(groups, 1):
        for document in group:
            started = time.monotonic()
            system.stream(document)
            seen.add(document.id)
            say(f"{document.id}: {describe(system, document.id)}, {time.monotonic() - started:.0f} s")
        asked = [q for q in questions if q.document in seen]
        answers = ask(system.served(), closed_book(asked))
        right = marks(asked, answers, seen)
        report["R"].append([_share(asked, right, {d.id for d in g}) for g in groups[:number]])
        say(f"after stage {number}: " + " ".join(f"{x:.2f}" for x in report["R"][-1]))
    lines["ours, closed book"] = answers
    report["lines"] = {name: by_kind(questions, marks(questions, texts, everything)) for name, texts in lines.items()}
    after = unrelated_answers(system.served(), stream.unrelated, before)
    report["unrelated before"] = by_kind(stream.unrelated, marks(stream.unrelated, before, set()))
    report["unrelated after"] = by_kind(stream.unrelated, marks(stream.unrelated, after, set()))
    report["routing"] = routing(system, stream)
    report["prompt tokens a question"] = {
        "closed book": tokens(system.model, closed_book(questions)),
        "document in context": tokens(system.model, in_context(questions, stream)),
    }
    report["seconds"] = {name: round(s / len(stream.documents), 1) for name, s in system.seconds.items()}
    report["answers"] = [
        {"doc": q.document, "kind": q.kind, "q": q.text, "a": q.answers, "got": text, "right": r}
        for q, text, r in zip(asked, answers, right, strict=True)
    ]
    return report


def unrelated_answers(served: VersionedModel, asked: Sequence[Question], before: Sequence[str]) -> list[str]:
    """The served answers: the base model's own where no shard is near, for in bfloat16 another batch is a coin toss."""
    routes = served.route([q.text for q in asked])
    routed = [number for number, route in enumerate(routes) if route is not None]
    new = dict(zip(routed, ask(served, closed_book(asked[number] for number in routed)), strict=True))
    return [new.get(number, text) for number, text in enumerate(before)]


def routing(system: System, stream: Facts) -> dict[str, str]:
    """How many questions reach a shard that teaches their document, and how many unrelated ones reach any."""
    served = system.served()
    routes = served.route([q.text for q in stream.questions])
    taught = [() if r is None else served.manifest.shards[r.shard].documents for r in routes]
    right = sum(q.document in documents for q, documents in zip(stream.questions, taught, strict=True))
    false = sum(r is not None for r in served.route([q.text for q in stream.unrelated]))
    return {"right shard": f"{right}/{len(routes)}", "unrelated routed": f"{false}/{len(stream.unrelated)}"}


def tokens(model: LocalModel, tasks: Sequence[Conversation]) -> float:
    """Mean length of the prompts, chat template included."""
    return round(sum(len(model.encode(task)) for task in tasks) / max(1, len(tasks)), 1)


def describe(system: System, name: str) -> str:
    """What became of a document, in a few words."""
    with system.ledger.begin() as session:
        row = session.get(DocumentRow, name)
        if row is None:
            return "not taken"
        version = desired_version(session)
        decision = session.get(DecisionRow, version) if version else None
        update = session.query(UpdateRow).order_by(UpdateRow.created_at.desc()).first()
        loss = update.figures.get("loss_last", 0.0) if update and row.state != "quarantined" else 0.0
        scores = f", gate {decision.reason}" if decision and row.state == "learnt" else ""
        return f"{row.state} ({row.reason}), conflict {row.conflict or 0:.2f}, loss {loss:.3f}{scores}"


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def _share(asked: Sequence[Question], right: Sequence[bool], documents: set[str]) -> float:
    row = [r for q, r in zip(asked, right, strict=True) if q.document in documents]
    return sum(row) / max(1, len(row))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="a folder in the format of benchmarks/facts.py")
    parser.add_argument("--first", type=int, help="only the first documents")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--without-gate", action="store_true")
    parser.add_argument("--config", type=Path, help="a configuration file; environment variables work too")
    parser.add_argument("--json", type=Path, help="where to write the whole report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        settings = load(Path(home), args.config)
        system = build(settings, with_gate=not args.without_gate)
        report = run(fact_files.read(args.facts, args.first), system, args.stages)
        report["settings"] = settings.model_dump(mode="json", exclude={"home"})
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(json.dumps({k: v for k, v in report.items() if k not in ("answers", "settings")}, indent=1))


if __name__ == "__main__":
    main()
