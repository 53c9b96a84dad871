"""A document as passages that a small model can read at once."""

import re
from collections.abc import Iterator
from itertools import zip_longest

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
    """The document's text in passages of whole sentences and lines, tables read out.

    So that no passage leans on another, each one of several carries the title, the last heading and the sentence
    before.
    """
    parts: list[list[str]] = [[]]
    before: list[str] = []
    for sentence, end in _with_ends(document.text):
        if parts[-1] and len(" ".join([*parts[-1], sentence]).split()) > WORDS:
            heading = [f"{line}\n" for line in before if line.startswith("#")][-1:]
            parts.append([*heading, "" if before[-1].startswith("#") else f"{before[-1]} "])
        parts[-1].append(sentence + end)
        before.append(sentence)
    texts = ["".join(part).strip() for part in parts]
    if len(texts) == 1 or not document.title:
        return texts
    return [f"{document.title}\n\n{text}" for text in texts]


def read_out(text: str) -> str:
    r"""The text with Markdown tables row by row, each cell under the name of its column.

    >>> read_out("Trains:\n\n| To | At |\n|---|---|\n| Vell | 9.30 |\n")
    'Trains:\n\nTo: Vell; At: 9.30.'
    """
    lines: list[str] = []
    columns: list[str] = []
    for line in text.strip().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            columns = []
            lines.append(line)
        elif not columns:
            columns = cells
        elif any(cell.strip(":-") for cell in cells):
            lines.append(
                "; ".join(f"{c}: {cell}" for c, cell in zip_longest(columns, cells, fillvalue="") if cell) + "."
            )
    return "\n".join(lines)


def _with_ends(text: str) -> Iterator[tuple[str, str]]:
    """Sentences on one line each, with the space or line end after them."""
    text, start = read_out(text), 0
    for end in END.finditer(text):
        yield from _one(text[start : end.start()], "\n" if "\n" in end.group() else " ")
        start = end.end()
    yield from _one(text[start:], "")


def _one(sentence: str, end: str) -> Iterator[tuple[str, str]]:
    if sentence.strip():
        yield " ".join(sentence.split()), end
