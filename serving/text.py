"""From tokens to text as they come: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that aren't a whole character


class Detokeniser:
    """Text of tokens that come one by one. A character's bytes may be spread over several tokens.

    A token's text can depend on the token before it (a leading space), so each new stretch is decoded together
    with the previous one, and the previous one's text is cut off.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []
        self._new: list[int] = []

    def add(self, token: int) -> str:
        """The text that became certain with this token."""
        self._new.append(token)
        text = self._text()
        return "" if text.endswith(REPLACEMENT) else self._show(text)

    def flush(self) -> str:
        """What is left at the end, broken characters included."""
        return self._show(self._text())

    def _text(self) -> str:
        return self._decode(self._shown + self._new)[len(self._decode(self._shown)) :]

    def _show(self, text: str) -> str:
        if text:
            self._shown, self._new = self._new, []
        return text


class StopFinder:
    """Holds text back while it may be the beginning of a stop string, and ends before the first whole one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_found = False

    def add(self, text: str) -> str:
        """The text that is certain to come before any stop string."""
        self._held += text
        places = [place for place in (self._held.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.is_found = True
            self._held, certain = "", self._held[: min(places)]
            return certain
        cut = len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that is a beginning of the stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
