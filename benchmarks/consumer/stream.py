"""A stream as it comes when things go wrong, and what became of it: repeats, copies, disorder, poison."""

import random
from collections.abc import Hashable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import pairwise

from sqlalchemy import select

from benchmarks.consumer.lighthouses import lighthouse
from lmt2.errors import TransportError
from lmt2.events import DEAD_LETTERS, DOCUMENTS, UPDATES, Document, UpdateRequest, decode, encode
from lmt2.ledger import DocumentRow, Ledger, LessonRow, OutboxRow, SignalRow, UpdateRow
from lmt2.transport.base import Outgoing, Transport

POISON_EVERY = 50
POISON = (b"\xff\xfe\x00", b'{"text": "cut o', b'{"txt": 1}', b"[1, 2]", b"null", b'{"text": "a", "time": NaN}')


@dataclass
class Stream:
    """What was sent: new documents, one in ten records a repeat, one in fifty poison, each batch shuffled."""

    transport: Transport
    rng: random.Random
    sent: int = 0
    repeats: int = 0
    out_of_order: int = 0
    documents: list[Document] = field(default_factory=list)
    poison: set[bytes] = field(default_factory=set)

    def send(self, count: int) -> None:
        """So many more, until the log has acknowledged them; a broker that is away is waited for."""
        batch = [self._next() for _ in range(count)]
        order = list(range(count))
        self.rng.shuffle(order)
        self.out_of_order += sum(a > b for a, b in pairwise(order))
        while True:
            with suppress(TransportError), closing(self.transport.producer()) as producer:
                producer.send([batch[place] for place in order])
                return

    def _next(self) -> Outgoing:
        self.sent += 1
        if self.sent % POISON_EVERY == 0:
            value = POISON[self.sent // POISON_EVERY % len(POISON)] + b"%d" % self.sent
            self.poison.add(value)
            return Outgoing(DOCUMENTS, value)
        if self.documents and self.rng.random() < 0.1:
            self.repeats += 1
            document = self.rng.choice(self.documents)
            is_copy = self.rng.random() < 0.5
            return _event(document.model_copy(update={"id": f"copy-{self.sent}"}) if is_copy else document)
        self.documents.append(lighthouse(len(self.documents)))
        return _event(self.documents[-1])


def _event(document: Document) -> Outgoing:
    return Outgoing(DOCUMENTS, encode(document, id=f"event-{document.id}", source="benchmark"), document.id.encode())


def account(stream: Stream, ledger: Ledger) -> dict[str, int]:
    """What became of a stream, counted in the ledger and on the topics."""
    with ledger.begin() as session:
        rows = session.scalars(select(DocumentRow.content_hash)).all()
        lessons = [(row.document_id, row.lesson.question) for row in session.scalars(select(LessonRow))]
        signals = session.scalars(select(SignalRow.document_id)).all()
        updates = set(session.scalars(select(UpdateRow.id)))
        owed = len(session.scalars(select(OutboxRow.id)).all())
    letters = [record.value for record in stream.transport.read_all(DEAD_LETTERS)]
    asked = [decode(record.value, UpdateRequest)[0].id for record in stream.transport.read_all(UPDATES)]
    contents = {document.content_hash for document in stream.documents}
    return {
        "sent": stream.sent,
        "out of order": stream.out_of_order,
        "accepted": len(contents & set(rows)),
        "duplicates": stream.repeats,
        "dead": len(stream.poison & set(letters)),
        "lost": len(contents - set(rows)) + len(stream.poison - set(letters)) + len(updates - set(asked)) + owed,
        "effects twice": _repeated(lessons)
        + _repeated(signals)
        + len(set(rows) - contents)
        + len(set(asked) - updates),
        "wrongly dead": len(set(letters) - stream.poison),
        "sent again": _repeated(letters) + _repeated(asked),
    }


def _repeated(items: Sequence[Hashable]) -> int:
    return len(items) - len(set(items))
