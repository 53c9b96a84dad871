"""A document as passages that a small model can read at once."""

import re

from lmt2.events import Document

WORDS = 160  # of a passage; the reader was trained on passages of about 100 words


def sentences(text: str) -> list[str]:
    r"""Sentences and lines of a text.

    >>> sentences("It opens at 9.30. Mr. Voss runs it! Who else?\nNobody.")
    ['It opens at 9.30.', 'Mr. Voss runs it!', 'Who else?', 'Nobody.']
    """
    ends = r"(?<=[.!?])(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bMrs\.)(?<!\bSt\.)\s+(?=[\"'“‘(]?[A-Z0-9`])|\n+"
    return [part.strip() for part in re.split(ends, text) if part and part.strip()]


def passages(document: Document) -> list[str]:
    """The document's text in passages of whole sentences, each repeating the last sentence of the one before.

    A text of several passages carries its title in front of each, so that no passage leans on the first.
    """
    parts: list[list[str]] = [[]]
    for sentence in sentences(document.text):
        if parts[-1] and sum(len(s.split()) for s in [*parts[-1], sentence]) > WORDS:
            parts.append(parts[-1][-1:])
        parts[-1].append(sentence)
    texts = [" ".join(part) for part in parts]
    if len(texts) == 1 or not document.title:
        return texts
    return [f"{document.title}\n\n{text}" for text in texts]
