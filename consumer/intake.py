"""Intake: is a record a document that can be used, and is it new?"""

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from lmt2.config import ConsumerSettings
from lmt2.errors import EventError
from lmt2.events import Document, Envelope, decode
from lmt2.ledger import LEAVING, DocumentRow
from lmt2.transport.base import Record


def read(record: Record, max_text_bytes: int) -> tuple[Document, Envelope]:
    """The document of a record.

    Raises:
        EventError: it can't be decoded or is too large.
    """
    document, envelope = decode(record.value, Document, record.headers)
    size = len(document.text.encode())
    if size > max_text_bytes:
        raise EventError(f"text: {size} bytes, at most {max_text_bytes} are taken; split the document into parts")
    return document, envelope


def event_key(envelope: Envelope) -> str:
    """Source and id: two events with the same are one event."""
    return f"{envelope.source}|{envelope.id}"


def new_row(document: Document, envelope: Envelope, **rest: Any) -> DocumentRow:
    """A document's row: what it is found again by, and the rest."""
    return DocumentRow(
        id=document.id,
        event_key=event_key(envelope),
        content_hash=document.content_hash,
        payload=document.model_dump(mode="json"),
        **rest,
    )


def returning(settings: ConsumerSettings) -> tuple[str, ...]:
    """States of documents that are taken when they are sent again."""
    return ("released", *LEAVING) if settings.shadow else ("released", "shadowed", *LEAVING)


def update_id(*origin: str) -> str:
    """The name of an update, from what it came of: the same event may lead to another one after a retraction."""
    return "u-" + hashlib.sha256("|".join(origin).encode()).hexdigest()[:12]


def earlier_row(session: Session, document: Document, returning: Collection[str]) -> DocumentRow | None:
    """What the ledger has of this content, if it is in a state of those that may come again."""
    same = (DocumentRow.content_hash == document.content_hash, DocumentRow.state.in_(returning))
    return session.scalar(select(DocumentRow).where(*same))


def repeats(
    session: Session, documents: Sequence[tuple[Document, Envelope]], returning: Collection[str]
) -> set[tuple[str, str]]:
    """Those that the ledger holds just so, by event key and content hash: what a topic that is read again consists of.

    One query for all. What isn't among them may still be a repeat.
    """
    keys = [event_key(envelope) for _, envelope in documents]
    columns = select(DocumentRow.event_key, DocumentRow.content_hash, DocumentRow.state)
    # States are told apart here: asked for them, SQLite goes through all documents by the index of states.
    found = session.execute(columns.where(DocumentRow.event_key.in_(keys)))
    return {(key, content) for key, content, state in found if state not in returning}


def is_repeat(session: Session, document: Document, envelope: Envelope, returning: Collection[str]) -> bool:
    """Whether the ledger already has this content, as this event or as another, and it may not come again.

    Raises:
        EventError: the event's or the document's id is taken by other content.
    """
    key, content = event_key(envelope), document.content_hash
    same = or_(DocumentRow.event_key == key, DocumentRow.content_hash == content, DocumentRow.id == document.id)
    found = {row.content_hash: row.state for row in session.scalars(select(DocumentRow).where(same))}
    state = found.pop(content, None)
    if state is not None and state not in returning:
        return True
    if found:  # not dropped as a repeat: whoever sent it believes that it will be learnt
        raise EventError(
            f"id: {document.id} is taken by another text; give the new text an id of its own and set supersedes"
        )
    return False
