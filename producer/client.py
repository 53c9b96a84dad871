"""Sends documents to the stream."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from lmt2.events import CONTENT_TYPE, DOCUMENTS, Document, encode
from lmt2.transport.base import Outgoing, Transport

BATCH = 100  # documents that are acknowledged together


class DocumentProducer:
    """Sends documents; a context manager that closes its connections at the end.

    Args:
        transport: where the topics are.
        source: who sends, for the events' envelopes. Source and event id together name an event.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from lmt2.transport.embedded import EmbeddedTransport
        >>> with TemporaryDirectory() as folder:
        ...     with DocumentProducer(EmbeddedTransport(Path(folder) / "events.db")) as producer:
        ...         producer.send([Document(id="mill", text="The mill at Arden was built in 1871.")])
        ['mill']
    """

    def __init__(self, transport: Transport, source: str = "lmt2-produce") -> None:
        self._source = source
        transport.create_topics([DOCUMENTS])  # documents may come before the pipeline's first start
        self._producer = transport.producer()

    def send(self, documents: Iterable[Document]) -> list[str]:
        """Send documents and return their ids when all are acknowledged.

        Sending a document again makes the same event again, which readers drop.

        Raises:
            TransportError: at least one wasn't acknowledged; sending all again is safe.
        """
        ids: list[str] = []
        for batch in _batches(documents):
            self._producer.send([self._record(document, _content_id(document)) for document in batch])
            ids += [document.id for document in batch]
        return ids

    def retract(self, document_id: str) -> None:
        """Ask for a document's knowledge to be removed; returns when the request is acknowledged."""
        # A document may be sent and retracted more than once: each retraction is an event of its own.
        self._producer.send([self._record(Document(id=document_id, retracted=True), uuid.uuid4().hex)])

    def close(self) -> None:
        """Close the connections."""
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _record(self, document: Document, event_id: str) -> Outgoing:
        value = encode(document, id=event_id, source=self._source)
        # The id as key keeps a document's events in order on one partition.
        return Outgoing(DOCUMENTS, value, document.id.encode(), {"content-type": CONTENT_TYPE.encode()})


def _content_id(document: Document) -> str:
    return hashlib.sha256(document.model_dump_json().encode()).hexdigest()[:32]


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    remaining = iter(documents)
    while batch := list(islice(remaining, BATCH)):
        yield batch
