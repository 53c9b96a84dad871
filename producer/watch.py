"""Watches folders for documents that are new or changed, by looking at them again and again.

A file is read once it has stood still for a moment, so that a half-written one isn't; a rename into the folder is as
good. A changed file is a new document that supersedes the one it was before: readers refuse another text under
a known id. So a text of its own id gets a new one, made of that id and the text. A deleted file is left alone: what
it taught is taken back by a retraction, never by a disk that went away. What a file was before is known within a run
only: a text of its own id that changed while nobody watched is refused by readers, and becomes a dead letter.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmt2.events import Document
from producer.documents import JSON_LINES, Refusal, files_in, read_documents

STILL_SECONDS = 1.0
ID_CHARACTERS = 200  # of a document's own id that are kept in the id of its changed text

Stamp = tuple[int, int, int]  # a file's number, its time of change in nanoseconds, and its size


class Watch:
    """What is new in folders since the last look."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._seen: dict[Path, tuple[Stamp, float]] = {}  # and since when it stands still
        self._read: dict[Path, Stamp] = {}
        self._sent: dict[tuple[Path, str], tuple[str, Document]] = {}  # the id in the file, and what was made of it

    def look(self, now: float) -> Iterator[Document | Refusal]:
        """The documents of files that are new or changed, and have stood still; `now` in seconds of a steady clock."""
        for path in (path for folder in self._folders for path in files_in(folder)):
            stamp = _stamp(path)
            if stamp is None or stamp == self._read.get(path) or not self._stands_still(path, stamp, now):
                continue
            items = list(read_documents([str(path)]))
            if _stamp(path) == stamp:  # else somebody wrote while it was read
                self._read[path] = stamp
                yield from (news for item in items if (news := self._news(path, item)) is not None)

    def _stands_still(self, path: Path, stamp: Stamp, now: float) -> bool:
        before, since = self._seen.get(path, (None, now))
        if before != stamp:
            self._seen[path] = stamp, now
            return False
        return now - since >= STILL_SECONDS

    def _news(self, path: Path, item: Document | Refusal) -> Document | Refusal | None:
        """What is to be sent of a document in a file; None if that was sent before."""
        if isinstance(item, Refusal) or item.retracted:
            return item
        key = path, item.id if path.suffix == JSON_LINES else ""  # other files hold one document each
        written, before = self._sent.get(key, ("", None))
        if before and before.content_hash == item.content_hash:
            return None
        news = _succeeding(item, before, has_same_id=item.id == written) if before else item
        self._sent[key] = item.id, news
        return news


def _succeeding(document: Document, before: Document, has_same_id: bool) -> Document:
    """A changed text as a document of its own, in the place of what it was before."""
    own = f"{document.id[:ID_CHARACTERS]}#{document.content_hash[:8]}"
    return document.model_copy(update={"id": own if has_same_id else document.id, "supersedes": before.id})


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:  # it went away, or moved, since the folder was listed
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
