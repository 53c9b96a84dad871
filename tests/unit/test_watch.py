"""A watched folder: what is sent of it, when, and as what."""

import os
from pathlib import Path

import pytest

from lmt2.events import Document
from producer.documents import Refusal
from producer.watch import STILL_SECONDS, Watch

MILL = "The mill at Arden was built in 1871."
BURNT = "The mill at Arden burnt down in 1902."


class Folder:
    """A folder and its watch, with a clock that goes when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watch = Watch([path])
        self._now = 0.0

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self._touch(file)
        return file

    def _touch(self, file: Path) -> None:
        """Two changes within a tick of the file system's clock would have one time."""
        self._now += STILL_SECONDS
        os.utime(file, ns=(int(self._now * 1e9), int(self._now * 1e9)))

    def look(self) -> list[Document | Refusal]:
        return list(self._watch.look(self._now))

    def settled(self) -> list[Document]:
        """What is sent once everything has stood still."""
        early = self.look()
        self._now += STILL_SECONDS
        found = [*early, *self.look()]
        assert not [item for item in found if isinstance(item, Refusal)]
        return [item for item in found if isinstance(item, Document)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_what_is_there_and_what_comes_is_sent_once(folder: Folder) -> None:
    folder.write("a.txt", MILL)
    folder.write("ignored.pdf", "no document")
    folder.write(".hidden/b.txt", "hidden")
    assert [d.text for d in folder.settled()] == [MILL]
    assert folder.settled() == []
    folder.write("deep/er/c.md", "# Tower\n\nThe tower stands.")
    assert [d.title for d in folder.settled()] == ["Tower"]
    assert folder.settled() == []


def test_a_file_that_is_still_written_is_not_sent(folder: Folder) -> None:
    folder.write("a.txt", MILL[:10])
    assert folder.look() == []
    folder.write("a.txt", MILL[:20])
    assert folder.look() == []
    folder.write("a.txt", MILL)
    assert [d.text for d in folder.settled()] == [MILL]


def test_a_changed_file_is_a_new_document_that_supersedes_the_earlier_one(folder: Folder) -> None:
    folder.write("a.txt", MILL)
    (first,) = folder.settled()
    folder.write("a.txt", BURNT)
    (second,) = folder.settled()
    assert (second.text, second.supersedes) == (BURNT, first.id)
    assert second.id == Document.model_validate({"text": BURNT}).id, "as it would be called without a watch"
    folder.write("a.txt", MILL + " " + BURNT)
    assert [d.supersedes for d in folder.settled()] == [second.id]


def test_a_changed_text_under_an_id_of_its_own_gets_another(folder: Folder) -> None:
    for text in (MILL, BURNT, MILL + BURNT):
        folder.write("a.md", f"---\nid: mill\nsupersedes: older\n---\n{text}")
        (last,) = folder.settled()
        if text == MILL:
            assert (last.id, last.supersedes) == ("mill", "older")
            ids = [last.id]
        else:
            assert last.id == f"mill#{last.content_hash[:8]}"
            assert last.supersedes == ids[-1]
            ids.append(last.id)
    assert len(set(ids)) == 3


def test_of_a_changed_jsonl_file_only_what_changed_is_sent(folder: Folder) -> None:
    folder.write("a.jsonl", f'{{"id": "mill", "text": "{MILL}"}}\n{{"text": "The tower stands."}}\n')
    assert [d.id for d in folder.settled()][:1] == ["mill"]
    folder.write(
        "a.jsonl", f'{{"id": "mill", "text": "{BURNT}"}}\n{{"text": "The tower stands."}}\n{{"text": "New."}}\n'
    )
    changed, new = folder.settled()
    assert (changed.supersedes, changed.text) == ("mill", BURNT)
    assert (new.supersedes, new.text) == (None, "New.")


def test_a_touched_a_deleted_and_a_renamed_file_teach_nothing_new(folder: Folder) -> None:
    file = folder.write("a.txt", MILL)
    assert len(folder.settled()) == 1
    folder.write("a.txt", MILL)
    assert folder.settled() == [], "written again as it was"
    file.unlink()
    assert folder.settled() == []
    folder.write("a.txt", MILL)
    assert folder.settled() == [], "put back"
    file.rename(folder.path / "b.txt")
    assert [d.text for d in folder.settled()] == [MILL], "the same id and text: readers drop it"


def test_what_is_no_document_is_named_once_and_again_when_it_changed(folder: Folder) -> None:
    folder.write("a.jsonl", "no json\n")
    for _ in range(2):
        folder.look()
        folder._now += STILL_SECONDS
        (refused,) = folder.look()
        assert isinstance(refused, Refusal)
        assert refused.place.endswith("a.jsonl:1")
        assert folder.settled() == []
        folder.write("a.jsonl", "still no json\n")
