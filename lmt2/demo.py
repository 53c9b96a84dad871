"""The demo: sample documents go through a fresh pipeline, and the served model is asked before and after.

It does what a person would do with `lmt2 up`, `produce` and `ask`, and shows what the ledger says meanwhile.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lmt2 import evaluation, running
from lmt2.child import Child, lmt2_command
from lmt2.errors import ConfigError, ServingError
from lmt2.evaluation import Question, Scored
from lmt2.events import Document, decode
from lmt2.follow import STEPS, follow
from lmt2.follow import Progress as Way
from lmt2.ledger import Ledger

LONGEST_SECONDS = 3600.0
LOOK_SECONDS = 0.5


@dataclass
class Bars:
    """A bar for each document, and a line whenever one is decided."""

    console: Console
    documents: Sequence[Document]
    training: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = (TextColumn("{task.fields[title]:<28.28}"), BarColumn(20), TextColumn("{task.description}"))
        self.progress = Progress(*columns, TimeElapsedColumn(), console=self.console)
        self._tasks: dict[str, TaskID] = {
            d.id: self.progress.add_task("waits", total=STEPS, title=d.title or d.id) for d in self.documents
        }

    def hear(self, entries: Sequence[dict[str, Any]]) -> None:
        """Take in what the learner says of its steps."""
        for entry in entries:
            if entry.get("event") == "step":
                self.training[entry["update"]] = f"step {entry['step']} of {entry['of']}, loss {entry['loss']:.2f}"

    def show(self, way: Way) -> None:
        """Move a document's bar."""
        doing = self.training.get(way.update, "") if way.step == 1 else ""
        short = f"{way.detail.split(';')[0]}; {doing}" if doing else way.detail
        described = way.state if way.is_decided else short
        self.progress.update(self._tasks[way.document], completed=way.step, description=described)
        if way.step > self.seen.get(way.document, 0) and (way.is_decided or not self.console.is_terminal):
            self.console.print(f"[bold]{way.document}[/] {way.state}: {way.detail}", highlight=False)
        self.seen[way.document] = way.step


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
        with Child(self._home) as child:
            address = child.ready().serving
            before = self._ask(address, "before")
            self._produce()
            ways = self._follow(child)
            after = self._ask(address, "after")
        self._show_answers(before, after)
        self._show_counts(before, after)
        return self._conclude(ways, time.monotonic() - started)

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
                bars.hear(list(child.new_log_entries()))
                with ledger.begin() as session:
                    ways = follow(session, documents)
                for way in ways:
                    bars.show(way)
                if all(way.is_decided for way in ways) or time.monotonic() > deadline:
                    return ways
                time.sleep(LOOK_SECONDS)

    def _show_answers(self, before: Sequence[Scored], after: Sequence[Scored]) -> None:
        table = Table("question", "before", "after", "", title="What the model knows", title_justify="left")
        for old, new in list(zip(before, after, strict=True))[: len(self._questions)]:
            mark = "[green]right[/]" if new.is_right else "[red]wrong[/]"
            table.add_row(new.question.q, _short(old), _short(new), mark)
        self._console.print(table)

    def _show_counts(self, before: Sequence[Scored], after: Sequence[Scored]) -> None:
        n = len(self._questions)
        rows = [("the documents (no question was seen in training)", before[:n], after[:n])]
        rows += [("unrelated things", before[n:], after[n:])]
        table = Table("right answers about", "before", "after", "questions")
        for title, old, new in rows:
            table.add_row(title, str(_right(old)), str(_right(new)), str(len(new)))
        self._console.print(table)

    def _conclude(self, ways: Sequence[Way], seconds: float) -> int:
        poison = {document.id for document in self._poison}
        undecided = [way.document for way in ways if way.document not in poison and not way.is_decided]
        swallowed = [way.document for way in ways if way.document in poison and way.state == "learnt"]
        self._console.print(f"{seconds:.0f} seconds in all.")
        if undecided or swallowed:
            self._console.print(f"[red]Failed[/]: undecided {undecided}, poison learnt {swallowed}")
            return 1
        self._console.print(_next_steps(self._home, self._questions))
        return 0


def _documents(file: Path) -> list[Document]:
    lines = file.read_bytes().splitlines()
    return [decode(line, Document)[0] for line in lines if line.strip()]


def _right(scored: Sequence[Scored]) -> int:
    return sum(one.is_right for one in scored)


def _short(scored: Scored) -> str:
    first = next(iter(scored.answer.text.splitlines()), "")
    return first if len(first) <= 60 else f"{first[:59]}…"


def _next_steps(home: Path, questions: Sequence[Question]) -> str:
    return (
        "Next:\n"
        f"  lmt2 up --home {home}\n"
        f"  lmt2 ask {json.dumps(questions[0].q, ensure_ascii=False)} --home {home}   (with --base: as it was before)\n"
        f"  lmt2 versions, decisions, rollback --home {home}\n"
        "  lmt2 produce YOUR-FILE.md --wait"
    )
