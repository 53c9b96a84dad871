"""When an answer counts as right: its first line contains an accepted answer as whole words.

One rule for all: the consumer's conflict score, the gate's examination, `lmt2 evaluate` and the benchmarks.
"""

import re
import unicodedata
from collections.abc import Sequence

STRAIGHT = str.maketrans("‘’", "''")
THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

# "one" doesn't stand in "forty-one", nor "41" in "20:41", nor "38" in "38.6"
BEFORE = r"(?<![\w-])(?<!\d[.:])"
AFTER = r"(?!\w)(?![.:]\d)"


def normalise(text: str) -> str:
    r"""A text in the form in which answers are compared.

    Unicode NFKC, case folded, apostrophes straight, no commas in thousands, runs of white space as one space.

    >>> normalise(" The  Skipper’s\n2,140 Nets ")
    "the skipper's 2140 nets"
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(STRAIGHT)
    return " ".join(THOUSANDS_COMMA.sub("", folded).split())


def hit(output: str, accepted: Sequence[str]) -> bool:
    r"""Whether the first line of an output contains one of the accepted answers.

    White space around the output is stripped first. An answer must not be a part of a longer word, number, decimal
    or time of day, nor follow a hyphen.

    >>> hit("It weighs 1,250 kg.", ["1250"])
    True
    >>> hit("It leaves at 20:41.", ["41"])
    False
    >>> hit("Perhaps Bergen.\nOr Oslo.", ["Oslo"])
    False
    """
    first = next(iter(output.strip().splitlines()), "")
    line = normalise(first)
    return any(re.search(BEFORE + re.escape(normalise(answer)) + AFTER, line) for answer in accepted)
