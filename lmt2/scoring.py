"""When an answer counts as right: its first line contains an accepted answer as whole words.

One rule for all: the consumer's conflict score, the gate's examination, `lmt2 evaluate` and the benchmarks. Numbers and
dates count by value: "25" is "twenty-five", "3 May 2024" is "2024-05-03"; but "one" alone, which is mostly no number,
stays a word.
"""

import re
import unicodedata
from collections.abc import Sequence

STRAIGHT = str.maketrans("‘’", "''")
THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

ONE = "one|two|three|four|five|six|seven|eight|nine"
TEEN = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
TEN = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
VALUES = {word: n for n, word in enumerate(f"{ONE}|{TEEN}".split("|"), 1)}
VALUES |= {word: 10 * n for n, word in enumerate(TEN.split("|"), 2)}
SMALL = rf"(?:(?:{TEN})(?:[- ](?:{ONE})\b)?|{TEEN}|{ONE})\b"
HUNDREDS = rf"(?:(?:a|{ONE}) hundred(?: (?:and )?{SMALL})?|{SMALL})"
NUMBER = rf"(?>(?:a|{HUNDREDS}) thousand(?:,? (?:and )?{HUNDREDS})?|{HUNDREDS})\b"
IN_WORDS = re.compile(rf"(?<![\w-])({NUMBER})((?:[- ]{NUMBER})*+)")  # possessive: no long search in a hostile text

MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
MONTHS, DAY = MONTH.split("|"), r"(\d{1,2})(?:st|nd|rd|th)?"
YEAR_FIRST = re.compile(r"(?<![\w-])(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?![\w-])")
MONTH_FIRST = re.compile(rf"\b({MONTH}) {DAY}\b(?![.:]\d)(?:,(?= \d{{4}}\b))?")
DAY_FIRST = re.compile(rf"\b{DAY}(?: of)? ({MONTH})\b")

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


def by_value(text: str) -> str:
    """A normalised text with numbers below a million in digits, and dates as day, month and year.

    >>> by_value("On May 3rd, 2024, two thousand and twelve of a hundred-odd came.")
    'on 3 may 2024, 2012 of 100-odd came.'
    >>> by_value("2024-05-03"), by_value("3rd of May 2024")
    ('3 may 2024', '3 may 2024')
    """
    line = YEAR_FIRST.sub(lambda m: f"{int(m[3])} {MONTHS[int(m[2]) - 1]} {m[1]}", normalise(text))
    line = DAY_FIRST.sub(r"\1 \2", MONTH_FIRST.sub(r"\2 \1", line))
    return IN_WORDS.sub(_in_digits, line)


def _in_digits(match: re.Match[str]) -> str:
    if match[0] == "one" or match[2]:  # "nineteen twenty-three" is neither 19 nor 23
        return match[0]
    thousands = below = 0
    for word in re.findall(r"[a-z]+", match[0]):
        if word == "thousand":
            thousands, below = max(below, 1), 0
        else:
            below = max(below, 1) * 100 if word == "hundred" else below + VALUES.get(word, 0)
    return str(1000 * thousands + below)


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
    line = by_value(first)
    return any(re.search(BEFORE + re.escape(by_value(answer)) + AFTER, line) for answer in accepted)
