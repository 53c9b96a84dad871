"""Intake: is a record a document that can be used, and is it new?"""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from lmt2.errors import EventError
from lmt2.events import Document, Envelope, decode
from lmt2.ledger import DocumentRow
from lmt2.transport.base import Record


def read(record: Record, max_text_bytes: int) -> tuple[Document, Envelope]:
    """The document of a record.

    Raises:
        EventError: it can't be decoded, is too large, or asks for what isn't there yet.
    """
    document, envelope = decode(record.value, Document, record.headers)
    size = len(document.text.encode())
    if size > max_text_bytes:
        raise EventError(f"text: {size} bytes, at most {max_text_bytes} are taken; split the document into parts")
    if document.retracted:
        raise EventError("retracted: retractions are not supported yet; `lmt2 rollback` restores an earlier version")
    return document, envelope


def event_key(envelope: Envelope) -> str:
    """Source and id: two events with the same are one event."""
    return f"{envelope.source}|{envelope.id}"


def is_released(session: Session, document: Document) -> bool:
    """Whether an operator lets this document out of quarantine."""
    row = session.get(DocumentRow, document.id)
    return row is not None and (row.state, row.content_hash) == ("released", document.content_hash)


def is_repeat(session: Session, document: Document, envelope: Envelope) -> bool:
    """Whether the ledger already has this content, as this event or as another, and nobody released it.

    Raises:
        EventError: the event's or the document's id is taken by other content.
    """
    key, content = event_key(envelope), document.content_hash
    same = or_(DocumentRow.event_key == key, DocumentRow.content_hash == content, DocumentRow.id == document.id)
    found = session.scalars(select(DocumentRow.content_hash).where(same)).all()
    if content in found:
        return not is_released(session, document)
    if found:  # not dropped as a repeat: whoever sent it believes that it will be learnt
        raise EventError(
            f"id: {document.id} is taken by another text; give the new text an id of its own and set supersedes"
        )
    return False
