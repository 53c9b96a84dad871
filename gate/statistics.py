"""Tests for paired answers: did the candidate get better, get worse, or provably not get much worse?

Two versions answer the same n questions. Only the discordant ones tell them apart: `lost` (b) were right before
and are wrong now, `gained` (c) the reverse. A McNemar test that finds no difference doesn't show that there is
none: with few questions it finds nothing whatever the truth. So harm is judged the other way round: the
candidate must show that it is *not* worse by the margin (Tango 1998), and is presumed harmful until it does.

References:
    Tango, T. (1998). Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design. Statistics in Medicine 17, 891-908.
    McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or
    percentages. Psychometrika 12, 153-157; in its exact form a sign test on the discordant pairs.
    Wilcoxon, F. (1945). Individual comparisons by ranking methods. Biometrics Bulletin 1, 80-83.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Comparison = Literal["not worse", "worse", "unclear"]


@dataclass(frozen=True)
class Pairs:
    """Outcomes of n questions that two versions answered.

    >>> Pairs.of([True, True, False, False], [True, False, True, True])
    Pairs(n=4, before=2, lost=1, gained=2)
    """

    n: int
    before: int  # right before
    lost: int  # b: right before, wrong now
    gained: int  # c: wrong before, right now

    @classmethod
    def of(cls, before: Sequence[bool], after: Sequence[bool]) -> "Pairs":
        """Count the outcomes of the same questions, in the same order."""
        both = list(zip(before, after, strict=True))
        return cls(len(both), sum(before), both.count((True, False)), both.count((False, True)))

    @property
    def after(self) -> int:
        """Right now."""
        return self.before - self.lost + self.gained

    @property
    def gain(self) -> float:
        """Change in the share of right answers, positive for the better; 0 where nothing was asked."""
        return (self.gained - self.lost) / self.n if self.n else 0.0


def sign_test(successes: int, failures: int) -> float:
    """One-sided exact p-value: so many successes or more among fair coin flips.

    >>> sign_test(5, 0), sign_test(0, 0)
    (0.03125, 1.0)
    """
    flips = successes + failures
    ways: int = sum(math.comb(flips, k) for k in range(successes, flips + 1))
    return ways / (1 << flips)


def signed_rank_p(changes: Sequence[float]) -> float:
    """P-value of "it didn't go up" for paired figures' changes (Wilcoxon's one-sided signed-rank test, exact).

    Changes of zero are left out, ties share their mean rank. A few small losses weigh less than large gains, which a
    sign test can't tell apart.

    >>> signed_rank_p([3.0, 4.0, 5.0, 6.0, -0.1]), signed_rank_p([1.0, -1.0]), signed_rank_p([0.0])
    (0.0625, 0.75, 1.0)
    """
    moved = [change for change in changes if change]
    sizes = sorted(map(abs, moved))
    ranks = [bisect_left(sizes, abs(x)) + bisect_right(sizes, abs(x)) + 1 for x in moved]  # twice the mean rank
    won = sum(rank for rank, change in zip(ranks, moved, strict=True) if change > 0)
    ways = [1]  # by sum of ranks: the choices of signs that lead to it
    for rank in ranks:
        without, with_it = [*ways, *[0] * rank], [*[0] * rank, *ways]
        ways = [a + b for a, b in zip(without, with_it, strict=True)]
    return sum(ways[won:]) / (1 << len(ranks))


def decline_p(pairs: Pairs) -> float:
    """P-value of "it didn't get worse" (exact one-sided McNemar test)."""
    return sign_test(pairs.lost, pairs.gained)


def non_inferiority_p(pairs: Pairs, margin: float) -> float:
    """P-value of "it is worse by at least the margin" (Tango's score test); 1 where nothing was asked.

    Under that hypothesis P(lost) − P(gained) = Δ = margin. With the probability of a gain at its restricted
    maximum-likelihood estimate q, the score statistic z = (b − c − nΔ) / √(n (2q + Δ(1 − Δ))) is about normal.

    The paper's example, 44 patients of whom one lost, with a margin of 0.1, z = −1.709:

    >>> round(non_inferiority_p(Pairs(n=44, before=44, lost=1, gained=0), 0.1), 4)
    0.0438
    """
    n, b, c = pairs.n, pairs.lost, pairs.gained
    if n == 0:
        return 1.0
    linear = (2 * n - b + c) * margin - b - c
    constant = -c * margin * (1 - margin)
    q = (math.sqrt(linear**2 - 8 * n * constant) - linear) / (4 * n)
    z = (b - c - n * margin) / math.sqrt(n * (2 * q + margin * (1 - margin)))
    return NormalDist().cdf(z)


def compare(pairs: Pairs, margin: float, significance: float) -> Comparison:
    """Whether the second version is not worse (by the margin), worse (at all), or neither can be shown.

    >>> compare(Pairs(400, 200, 16, 16), 0.05, 0.05), compare(Pairs(30, 15, 0, 0), 0.05, 0.05)
    ('not worse', 'unclear')
    """
    if non_inferiority_p(pairs, margin) <= significance:
        return "not worse"
    return "worse" if decline_p(pairs) <= significance else "unclear"


def least_questions(margin: float, significance: float) -> int:
    """How many questions non-inferiority takes when not a single answer changes.

    >>> least_questions(0.05, 0.05)
    52
    """
    z = NormalDist().inv_cdf(1 - significance)
    return math.ceil(z**2 * (1 - margin) / margin)


def least_gains(significance: float) -> int:
    """How many gains a sign test or a signed-rank test takes when nothing is lost.

    >>> least_gains(0.05)
    5
    """
    return math.ceil(math.log2(1 / significance))
