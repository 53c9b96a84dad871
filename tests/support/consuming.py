"""A consumer with its ledger, its scholar scripted, and the hands of learner and gate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from consumer.kaft import HALFWAY
from consumer.worker import ConsumerWorker
from gate.promotion import carry_out
from lmt2.config import ConsumerSettings, Settings, StudySettings
from lmt2.events import DOCUMENTS, UPDATES, Document, Lesson, UpdateRequest, Verdict, decode, encode
from lmt2.ledger import DocumentRow, UpdateRow
from lmt2.stage import Outcome
from lmt2.transport.base import Record
from memory.versions import Manifest, untouched
from tests.support.gate import candidate, new_ledger, ruling
from tests.support.scripted import Book, Probe
from tests.support.tiny import WordEncoder
from tests.support.wire import assert_published

TEXT = "Ida Brandt keeps the lamp at Vell. The Vell lighthouse has 412 steps."
NEWS = "Tom Hale keeps the lamp at Vell, no longer Ida Brandt. The Vell harbour was dredged in 1911."
QUESTIONS = {
    "Ida Brandt": ("Who keeps the lamp at Vell?", "Whose job is Vell and its light?", "In Vell, who tends the beacon?"),
    "412": ("How many steps has the Vell tower?", "At Vell, what does one climb?", "Name the number of Vell stairs?"),
    "Tom Hale": ("Who keeps the lamp at Vell now?", "Which man is the keeper of Vell?", "Who got the job in Vell?"),
    "1911": ("When was Vell harbour dredged?", "In which year did Vell get deep?", "The Vell dredging was when?"),
}


class World:
    """A consumer with its ledger, whose probe model knows nothing unless it is told."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            home=folder,
            study=StudySettings(rounds=1, probes=1),
            consumer=ConsumerSettings(min_lessons=2, samples=2, least_probes=0),
        )
        self.base = untouched("base")
        self.ledger = new_ledger(folder, self.base)
        self.says: dict[str, str] = {}
        self.start()

    def start(self, nll: float = HALFWAY, **consumer: Any) -> None:
        """As after a restart: the same ledger, nothing else."""
        self.book = Book(QUESTIONS, corrections={"Ida Brandt": "Tom Hale"})
        probe = Probe(lambda conversation: self.says.get(conversation[-1]["content"], "No idea."), nll)
        changed = self.settings.consumer.model_copy(update=consumer)
        settings = self.settings.model_copy(update={"consumer": changed})
        self.worker = ConsumerWorker(settings, self.ledger, self.book.scholar, probe, WordEncoder())

    def know_all(self) -> None:
        """The probe model answers every question rightly."""
        self.says.update({question: answer for answer, questions in QUESTIONS.items() for question in questions})

    def take(self, record: Record) -> Outcome:
        """Work on a record and make its effect durable, as the stage does."""
        outcome = self.worker.work(record)
        with self.ledger.begin() as session:
            more = outcome.effect(session) or ()
        return replace(outcome, records=(*outcome.records, *more))

    def idle(self) -> list[UpdateRequest]:
        """The update requests that go out while no document comes."""
        with self.ledger.begin() as session:
            return [decode(record.value, UpdateRequest)[0] for record in self.worker.idle(session)]

    def ask(self, record: Record) -> UpdateRequest:
        """The update request that a record leads to."""
        (sent,) = self.take(record).records
        assert sent.topic == UPDATES
        assert_published(sent.value)
        return decode(sent.value, UpdateRequest)[0]

    def retract(self, name: str, offset: int = 8) -> list[UpdateRequest]:
        """The update requests that the retraction of a document leads to."""
        sent = self.take(retraction(name, offset)).records
        assert {record.topic for record in sent} <= {UPDATES}
        return [decode(record.value, UpdateRequest)[0] for record in sent]

    def train(self, asked: UpdateRequest, parent: Manifest) -> Manifest:
        """What the learner does."""
        with self.ledger.begin() as session:
            session.get_one(UpdateRow, asked.id).state = "trained"
            return candidate(session, parent, asked, artifact=asked.id)

    def decide(self, asked: UpdateRequest, manifest: Manifest, verdict: Verdict = "accept") -> None:
        """What the gate does."""
        with self.ledger.begin() as session:
            carry_out(session, ruling(manifest, asked, verdict))

    def promote(self, asked: UpdateRequest, parent: Manifest) -> Manifest:
        """What learner and gate do."""
        manifest = self.train(asked, parent)
        self.decide(asked, manifest)
        return manifest

    def update_state(self, asked: UpdateRequest) -> str:
        """What became of an update."""
        with self.ledger.begin() as session:
            return session.get_one(UpdateRow, asked.id).state

    def row(self, name: str) -> DocumentRow:
        """A document's row."""
        with self.ledger.begin() as session:
            row = session.get(DocumentRow, name)
            assert row is not None
            return row

    def count(self, table: type[Any]) -> int:
        """How many rows a table has."""
        with self.ledger.begin() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


def event(name: str = "vell", text: str = TEXT, offset: int = 7, **fields: Any) -> Record:
    """A document's record."""
    document = Document.model_validate({"id": name, "text": text, **fields})
    return Record(DOCUMENTS, 0, offset, encode(document, id=f"event-{name}", source="producer"), timestamp=1.0)


def retraction(name: str, offset: int = 8) -> Record:
    """A retraction's record."""
    document = Document(id=name, retracted=True)
    return Record(DOCUMENTS, 0, offset, encode(document, id=f"retraction-{offset}", source="producer"), timestamp=2.0)


def checked(asked: UpdateRequest) -> list[Lesson]:
    """The lessons without the gaps of facts that have none."""
    return [lesson for lesson in asked.lessons if lesson.kind != "gap"]
