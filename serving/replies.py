"""How answers look on the wire: whole, or as chunks of a stream, for completions and for chat."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.backend import FinishReason, Piece

Wire = dict[str, Any]
DONE = b"data: [DONE]\n\n"


@dataclass
class Reply:
    """The answer to one request. `system_fingerprint` names the version that gave it."""

    model: str
    is_chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    _used: list[Piece] = field(default_factory=list)

    def whole(self, pieces: Mapping[int, list[Piece]]) -> Wire:
        """The answer in one object, given the pieces of each choice."""
        choices = []
        for index, parts in pieces.items():
            text, last = "".join(piece.text for piece in parts), parts[-1]
            self._used.append(last)
            body: Wire = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
            choices.append(_choice(index, body, last.finish_reason))
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self._object(kind, choices, self._used[0].version) | {"usage": self._usage()}

    def chunks(self, index: int, piece: Piece, is_first: bool) -> list[Wire]:
        """A piece as chunks. A chat's first one says who speaks, and its last one carries no text."""
        if not self.is_chat:
            return [self._chunk(index, {"text": piece.text}, piece, piece.finish_reason)]
        found = [{"role": "assistant", "content": ""}] if is_first else []
        found += [{"content": piece.text}] if piece.text else []
        chunks = [self._chunk(index, {"delta": delta}, piece, None) for delta in found]
        if piece.finish_reason is not None:
            chunks.append(self._chunk(index, {"delta": {}}, piece, piece.finish_reason))
        return chunks

    def usage_chunk(self) -> Wire:
        """What a stream with `include_usage` ends with."""
        return self._object(self._chunk_kind, [], self._used[0].version) | {"usage": self._usage()}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _chunk(self, index: int, body: Wire, piece: Piece, reason: FinishReason | None) -> Wire:
        if reason is not None:
            self._used.append(piece)
        return self._object(self._chunk_kind, [_choice(index, body, reason)], piece.version)

    def _object(self, kind: str, choices: list[Wire], version: str) -> Wire:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": version,
            "choices": choices,
        }

    def _usage(self) -> Wire:
        read = sum(piece.prompt_tokens for piece in self._used)
        written = sum(piece.completion_tokens for piece in self._used)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def event(data: Wire) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> Wire:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def models(names: tuple[str, ...]) -> Wire:
    """The list of models."""
    return {"object": "list", "data": [model(name) for name in names]}


def model(name: str) -> Wire:
    """One model of the list."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "lmt2"}


def _choice(index: int, body: Wire, reason: FinishReason | None) -> Wire:
    return {"index": index, **body, "logprobs": None, "finish_reason": reason}
