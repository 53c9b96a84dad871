"""Reads documents from files, folders and standard input: JSON Lines, Markdown with optional front matter, text.

What can't be read is handed on as a `Refusal` that names file and line, so that the rest is sent all the same.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from lmt2.errors import EventError
from lmt2.events import Document, decode, explain

STANDARD_INPUT = "-"
JSON_LINES, MARKDOWN, TEXT = ".jsonl", ".md", ".txt"
FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<fields>.*?\n)?---[ \t]*(?:\n|\Z)(?P<text>.*)", re.DOTALL)
HEADING = re.compile(r"^# +(?P<title>.+?) *#*$", re.MULTILINE)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Refusal:
    """Input that is no document: where it stands, and why."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


def read_documents(names: Iterable[str], stdin: BinaryIO | None = None) -> Iterator[Document | Refusal]:
    """The documents of files, of all fitting files in folders, and of standard input (`-`), in order.

    Args:
        names: paths. A file's ending tells its kind; standard input is JSON Lines if it begins with a brace.
        stdin: what `-` reads instead of standard input.
    """
    for name in names:
        if name == STANDARD_INPUT:
            yield from _read_stream(stdin or sys.stdin.buffer)
        elif Path(name).is_dir():
            yield from _read_folder(Path(name))
        else:
            yield from _read_file(Path(name))


def _read_folder(folder: Path) -> Iterator[Document | Refusal]:
    files = files_in(folder)
    if not files:
        yield Refusal(str(folder), f"the folder holds no {JSON_LINES}, {MARKDOWN} or {TEXT} file")
    for file in files:
        yield from _read_file(file)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder that hold documents, in order; hidden ones are passed over."""
    inside = sorted(path for path in folder.rglob("*") if path.suffix in (JSON_LINES, MARKDOWN, TEXT))
    return [path for path in inside if path.is_file() and not _is_hidden(path.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_file(path: Path) -> Iterator[Document | Refusal]:
    try:
        if path.suffix == JSON_LINES:
            with path.open("rb") as file:
                yield from _read_lines(str(path), file)
        elif path.suffix in (MARKDOWN, TEXT):
            yield _read_text(str(path), path.read_bytes(), is_markdown=path.suffix == MARKDOWN)
        else:
            yield Refusal(str(path), f"unknown kind of file: expected {JSON_LINES}, {MARKDOWN} or {TEXT}")
    except OSError as error:
        yield Refusal(str(path), error.strerror or str(error))


def _read_stream(stream: BinaryIO) -> Iterator[Document | Refusal]:
    begin = _until_content(stream)
    if begin and begin[-1].lstrip().startswith(b"{"):
        yield from _read_lines("standard input", chain(begin, stream))
    else:
        yield _read_text("standard input", b"".join(begin) + stream.read(), is_markdown=True)


def _until_content(stream: BinaryIO) -> list[bytes]:
    """The lines up to the first that isn't blank; the rest of a stream that is still being written isn't waited for."""
    lines = []
    for line in stream:
        lines.append(line)
        if line.strip():
            break
    return lines


def _read_lines(place: str, lines: Iterable[bytes]) -> Iterator[Document | Refusal]:
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if content.strip():
            yield _read_line(f"{place}:{number}", content)


def _read_line(place: str, line: bytes) -> Document | Refusal:
    try:
        return decode(line, Document)[0]
    except EventError as error:
        return Refusal(place, str(error))


def _read_text(place: str, content: bytes, *, is_markdown: bool) -> Document | Refusal:
    try:
        text = content.removeprefix(BYTE_ORDER_MARK).decode("utf-8").replace("\r\n", "\n")
        return Document.model_validate(_fields(text) if is_markdown else {"text": text})
    except UnicodeDecodeError as error:
        return Refusal(place, f"not UTF-8: {error.reason} at byte {error.start}")
    except ValidationError as error:
        return Refusal(place, explain(error))
    except ValueError as error:
        return Refusal(place, str(error))


def _fields(markdown: str) -> dict[str, Any]:
    """A Markdown file's front matter and text; the title may also be the first heading."""
    matter = FRONT_MATTER.fullmatch(markdown)
    fields = dict(_field(line) for line in (matter["fields"] or "").splitlines() if line.strip()) if matter else {}
    text = matter["text"] if matter else markdown
    heading = HEADING.search(text)
    return {"title": heading["title"]} | fields | {"text": text} if heading else fields | {"text": text}


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ValueError(f"front matter: {line!r} is no `name: value`")
    return name.strip(), value.strip().strip("\"'")
