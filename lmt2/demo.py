"""The demo: sample documents go through a fresh pipeline, and the served model is asked before and after.

It does what a person would do with `lmt2 up`, `produce` and `ask`, and shows what the ledger says meanwhile.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lmt2 import evaluation, running
from lmt2.child import Child, lmt2_command
from lmt2.errors import ConfigError, ServingError
from lmt2.evaluation import Scored
from lmt2.events import Document, decode
from lmt2.follow import STEPS, follow
from lmt2.follow import Progress as Way
from lmt2.ledger import Ledger

LONGEST_SECONDS = 3600.0
LOOK_SECONDS = 0.5
# Whatever else is configured here: the demo brings its own event log, ledger and weights.
EMBEDDED = {
    "LMT2_KAFKA_BOOTSTRAP": "",
    "LMT2_STORAGE_LEDGER": "",
    "LMT2_STORAGE_ARTIFACTS": "",
    "LMT2_SERVING_VLLM": "",
}


class Bars:
    """A bar for each document, and a line whenever one is decided."""

    def __init__(self, console: Console, documents: Sequence[Document]) -> None:
        self._console = console
        self._steps: dict[str, int] = {}
        self._found: dict[str, str] = {}  # by document: what came of reading it
        self._training: dict[str, tuple[float, str]] = {}  # by update: how far, and what to say of it
        self.progress = Progress(
            TextColumn("{task.fields[title]:<28.28}", markup=False),
            BarColumn(20),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {
            d.id: self.progress.add_task("waits", total=STEPS, title=d.title or d.id) for d in documents
        }

    def hear(self, entries: Iterable[dict[str, Any]]) -> None:
        """Take in what consumer and learner say of their work."""
        for entry in entries:
            if entry["event"] == "structured":
                covered = f"{entry['covered']} of {entry['facts']} facts covered"
                self._found[entry["document"]] = f"{covered}, {entry['kept']} questions kept"
            elif entry["event"] == "step":
                told = f"step {entry['step']} of {entry['of']}, loss {entry['loss']:.2f}"
                self._training[entry["update"]] = (entry["step"] / entry["of"], told)

    def show(self, ways: Sequence[Way]) -> None:
        """Move the bars. Documents are read in order: the first one that isn't decided on is being read."""
        being_read = next((way.document for way in ways if not way.state), "")
        for way in ways:
            done, doing = self._doing(way, way.document == being_read)
            self.progress.update(self._tasks[way.document], completed=done, description=doing)
            if way.step > self._steps.get(way.document, 0) and (way.is_decided or not self._console.is_terminal):
                self._console.print(f"{way.document} {way.state}: {way.detail}", highlight=False, markup=False)
            self._steps[way.document] = way.step

    def _doing(self, way: Way, is_read: bool) -> tuple[float, str]:
        """How far a document is, and what is done with it now."""
        if way.is_decided:
            return way.step, way.state
        if not way.state:
            return 0.0, self._found.get(
                way.document, "is read: which questions does it answer?" if is_read else "waits"
            )
        share, told = self._training.get(way.update, (0.0, ""))
        return (way.step + share, f"{way.detail.split(';')[0]}; {told}") if way.step == 1 else (way.step, way.detail)


class Demo:
    """One run of the demo.

    Args:
        home: its state; what an earlier run left there is removed.
        data: a folder with docs, questions, unrelated and poison as JSON Lines.
    """

    def __init__(self, home: Path, data: Path) -> None:
        self._home = home
        self._console = Console()
        self._files = [data / "docs.jsonl", data / "poison.jsonl"]
        self._good, self._poison = map(_documents, self._files)
        self._questions = evaluation.read_questions(data / "questions.jsonl")
        self._unrelated = evaluation.read_questions(data / "unrelated.jsonl")

    def run(self) -> int:
        """Run it; the exit status is 0 if every good document was decided on and no poison was learnt."""
        started = time.monotonic()
        self._make_room()
        self._console.print(f"Starting a pipeline in {self._home} (its log: up.log there) …")
        with Child(self._home, environment=EMBEDDED) as child:
            address = child.ready().serving
            before = self._ask(address, "before")
            self._produce()
            ways = self._follow(child)
            after = self._ask(address, "after")
        self._show_answers(before, after)
        self._show_counts(before, after)
        self._console.print(f"{time.monotonic() - started:.0f} seconds in all")
        return self._conclude(ways, after)

    def _make_room(self) -> None:
        if running.find(self._home):
            raise ConfigError(f"a demo runs in {self._home} already")
        if self._home.exists():
            shutil.rmtree(self._home)

    def _ask(self, address: str, when: str) -> list[Scored]:
        asked = [*self._questions, *self._unrelated]
        with Progress(console=self._console, transient=True) as progress:
            task = progress.add_task(f"Asking {len(asked)} questions {when} the documents", total=len(asked))
            return evaluation.evaluate(address, "lmt2", asked, lambda: progress.advance(task))

    def _produce(self) -> None:
        command = lmt2_command("produce", *map(str, self._files), "--home", str(self._home))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServingError(f"the documents could not be produced: {done.stderr.strip()}")

    def _follow(self, child: Child) -> list[Way]:
        documents = [*self._good, *self._poison]
        ledger = Ledger(f"sqlite:///{self._home / 'ledger.db'}")
        bars = Bars(self._console, documents)
        deadline = time.monotonic() + LONGEST_SECONDS
        with bars.progress:
            while True:
                child.check()
                bars.hear(child.new_log_entries())
                with ledger.begin() as session:
                    ways = follow(session, documents)
                bars.show(ways)
                if all(way.is_decided for way in ways) or time.monotonic() > deadline:
                    return ways
                time.sleep(LOOK_SECONDS)

    def _show_answers(self, before: Sequence[Scored], after: Sequence[Scored]) -> None:
        table = Table("question", "before", "after", "", title="What the model knows", title_justify="left")
        for old, new in list(zip(before, after, strict=True))[: len(self._questions)]:
            mark = "[green]right[/]" if new.is_right else "[red]wrong[/]"
            table.add_row(escape(new.question.q), escape(_short(old)), escape(_short(new)), mark)
        self._console.print(table)

    def _show_counts(self, before: Sequence[Scored], after: Sequence[Scored]) -> None:
        n = len(self._questions)
        table = Table("right answers", "before", "after", "questions", title="None was seen in training")
        for title, part in (("about the documents", slice(0, n)), ("about unrelated things", slice(n, None))):
            table.add_row(title, str(_right(before[part])), str(_right(after[part])), str(len(after[part])))
            was = evaluation.by_kind(before[part])
            for kind, (right, asked) in evaluation.by_kind(after[part]).items():
                table.add_row(f"  {kind}", str(was[kind][0]), str(right), str(asked))
        self._console.print(table)

    def _conclude(self, ways: Sequence[Way], after: Sequence[Scored]) -> int:
        poison = {document.id for document in self._poison}
        undecided = [way.document for way in ways if way.document not in poison and not way.is_decided]
        swallowed = [way.document for way in ways if way.document in poison and way.state == "learnt"]
        if undecided or swallowed:
            self._console.print(f"[red]Failed[/]: undecided {undecided}, poison learnt {swallowed}")
            return 1
        self._console.print(_next_steps(self._home, after), highlight=False, soft_wrap=True)
        return 0


def _documents(file: Path) -> list[Document]:
    lines = file.read_bytes().splitlines()
    return [decode(line, Document)[0] for line in lines if line.strip()]


def _right(scored: Sequence[Scored]) -> int:
    return sum(one.is_right for one in scored)


def _short(scored: Scored) -> str:
    first = next(iter(scored.answer.text.splitlines()), "")
    return first if len(first) <= 60 else f"{first[:59]}…"


def _next_steps(home: Path, after: Sequence[Scored]) -> str:
    example = next((one for one in after if one.is_right), after[0]).question.q
    return (
        "Next:\n"
        f"  lmt2 up --home {home}\n"
        f"  lmt2 ask {json.dumps(example, ensure_ascii=False)} --home {home}\n"
        f"  lmt2 explain {json.dumps(example, ensure_ascii=False)} --home {home}\n"
        f"  lmt2 rollback --home {home}, and ask again\n"
        f"  lmt2 produce YOUR-FILE.md --wait --home {home}"
    )
