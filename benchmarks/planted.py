"""Documents whose sort is known beforehand, with questions at hand, and what the probe says to them.

| sort | from |
|---|---|
| known | `data/known`: common knowledge, written down without a look at any model's answers |
| new | a folder of facts, the documents that supersede none |
| superseding | the same folder, those that supersede another one |
| contradicting | `data/changed`: other sources that deny what an earlier document of the folder says |
| denying | `data/changed`: documents that deny common knowledge |

Questions come with their documents, so that scoring is measured apart from structuring.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks import facts as fact_files
from benchmarks.stream import say
from consumer.kaft import Asked, Score, ask, summed_up
from lmt2.config import ConsumerSettings
from lmt2.events import Document, Lesson
from lmt2.models.base import LanguageModel
from lmt2.models.encoder import Embeds

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Seen:
    """A document, its questions as the probe answers them, and its embedding."""

    sort: str
    document: Document
    asked: tuple[Asked, ...]
    embedding: tuple[float, ...]

    def score(self, settings: ConsumerSettings) -> Score:
        """The document's conflict score, all of its questions counted."""
        return summed_up(self.asked, settings)


SEEN = TypeAdapter(list[Seen])


def seen(file: Path | None, folder: Path, probe: LanguageModel, encoder: Embeds) -> list[Seen]:
    """All planted documents as the probe sees them; from the file if it is there, else written to it."""
    if file and file.exists():
        return SEEN.validate_json(file.read_bytes())
    found = [_look(sort, document, lessons, probe, encoder) for sort, document, lessons in planted(folder)]
    if file:
        file.write_bytes(SEEN.dump_json(found, exclude_defaults=True))
    return found


def planted(folder: Path) -> list[tuple[str, Document, list[Lesson]]]:
    """The documents, known ones first, and those of a folder of facts in stream order before what contradicts them."""
    found: list[tuple[str, Document, list[Lesson]]] = []
    for source in (DATA / "known", folder, DATA / "changed"):
        facts = fact_files.read(source)
        for document in facts.documents:
            questions = [q for q in facts.questions if q.document == document.id]
            lessons = [
                Lesson(question=q.text, answer=q.accepted({document.id})[0], kind="direct", document=document.id)
                for q in questions
            ]
            found.append((_sort(document, questions[0].kind), document, lessons))
    return found


def _sort(document: Document, kind: str) -> str:
    if not document.source:
        return kind
    return "superseding" if document.supersedes else "new"


def _look(sort: str, document: Document, lessons: Sequence[Lesson], probe: LanguageModel, encoder: Embeds) -> Seen:
    asked = tuple(ask(lessons, probe, ConsumerSettings().samples))
    found = Seen(sort, document, asked, tuple(encoder([f"{document.title}\n{document.text}"])[0].tolist()))
    say(f"{document.id} ({sort}): conflict {found.score(ConsumerSettings()).conflict:.2f}")
    return found
