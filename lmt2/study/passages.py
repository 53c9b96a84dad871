"""A document as passages that a small model can read at once."""

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from lmt2.events import Document

WORDS = 160  # of a passage; the reader was trained on passages of 60 to 220 words
NO_END = "".join(rf"(?<!\b{short}\.)" for short in ("Mr", "Ms", "Dr", "Mrs", "St"))
# A sentence ends before white space and a capital; a line ends it too, unless the next one goes on in small letters.
END = re.compile(rf"(?<=[.!?]){NO_END}[^\S\n]+(?=[\"'“‘(]?[A-Z0-9`])|\s*\n\s*\n\s*|\s*\n\s*(?![a-z\s])")


def sentences(text: str) -> list[str]:
    r"""Sentences and lines of a text.

    >>> sentences("It opens at 9.30. Mr. Voss runs it! Who\nelse?\nNobody.")
    ['It opens at 9.30.', 'Mr. Voss runs it!', 'Who else?', 'Nobody.']
    """
    return [sentence for sentence, _ in _with_ends(text)]


def passages(document: Document) -> list[str]:
    """The document's text in passages of whole sentences and lines.

    So that no passage leans on another, each one of several carries the title, the last heading, the head of a
    table that it goes on with, and the sentence before.
    """
    parts: list[list[str]] = [[]]
    before: list[str] = []
    for sentence, end in _with_ends(document.text):
        if parts[-1] and len(" ".join([*parts[-1], sentence]).split()) > WORDS:
            parts.append(_carried(before, sentence))
        parts[-1].append(sentence + end)
        before.append(sentence)
    texts = ["".join(part).strip() for part in parts]
    if len(texts) == 1 or not document.title:
        return texts
    return [f"{document.title}\n\n{text}" for text in texts]


def _with_ends(text: str) -> Iterator[tuple[str, str]]:
    """Sentences on one line each, with the space or line end after them."""
    start = 0
    for end in END.finditer(text.strip()):
        yield from _one(text.strip()[start : end.start()], "\n" if "\n" in end.group() else " ")
        start = end.end()
    yield from _one(text.strip()[start:], "")


def _one(sentence: str, end: str) -> Iterator[tuple[str, str]]:
    if sentence.strip():
        yield " ".join(sentence.split()), end


def _carried(before: Sequence[str], sentence: str) -> list[str]:
    """What a passage that begins with a sentence refers to, out of what stands before it."""
    heading = [line for line in before if line.startswith("#")][-1:]
    rows = list(takewhile(lambda line: line.startswith("|"), reversed(before)))
    near = rows[-1:] if sentence.startswith("|") else before[-1:]
    return [f"{line}\n" if line.startswith(("#", "|")) else f"{line} " for line in dict.fromkeys([*heading, *near])]
