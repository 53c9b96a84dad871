"""The tests behind the gate, against figures worked out by hand, published ones, and their own error rates."""

import math
from functools import cache

import numpy as np
import pytest

from gate.statistics import Pairs, compare, decline_p, least_gains, least_questions, non_inferiority_p, signed_rank_p

MARGIN, ALPHA, DRAWS = 0.05, 0.05, 20_000


@cache
def is_accepted(n: int, lost: int, gained: int, margin: float = MARGIN) -> bool:
    return non_inferiority_p(Pairs(n, n, lost, gained), margin) <= ALPHA


def acceptance(lost: float, gained: float, n: int = 400, margin: float = MARGIN) -> float:
    drawn = np.random.default_rng(1998).multinomial(n, [lost, gained, 1 - lost - gained], DRAWS)
    return sum(is_accepted(n, int(b), int(c), margin) for b, c, _ in drawn) / DRAWS


def test_tango_against_a_calculation_by_hand() -> None:
    # n = 400, b = c = 16, margin .05: 2n q² + 8q − .76 = 0, so q = (√2496 − 8) / 1600 = .0262250;
    # z = −20 / √(400 (.05245 + .0475)) = −20 / 6.322974 = −3.163069, and Φ(z) = .00078.
    q = (math.sqrt(2496) - 8) / 1600
    z = -20 / math.sqrt(400 * (2 * q + 0.0475))
    assert z == pytest.approx(-3.1631, abs=5e-4)
    assert non_inferiority_p(Pairs(400, 200, 16, 16), MARGIN) == pytest.approx(0.00078, abs=5e-6)


def test_an_equal_candidate_is_nearly_always_accepted() -> None:
    assert acceptance(0.04, 0.04) == pytest.approx(0.97, abs=0.01)


def test_one_that_is_worse_by_the_margin_is_nearly_never_accepted() -> None:
    assert acceptance(0.065, 0.015) == pytest.approx(0.055, abs=0.01)
    assert acceptance(0.09, 0.04) == pytest.approx(0.055, abs=0.01)


def test_a_small_examination_with_a_small_margin_shows_nothing() -> None:
    assert acceptance(0.04, 0.04, n=100, margin=0.02) < 0.2


def test_a_bare_comparison_with_the_margin_would_let_harm_in() -> None:
    drawn = np.random.default_rng(1998).multinomial(400, [0.065, 0.015, 0.92], DRAWS)
    assert float(np.mean((drawn[:, 0] - drawn[:, 1]) <= MARGIN * 400)) == pytest.approx(0.53, abs=0.02)


def test_a_decline_is_exact() -> None:
    # ten discordant, eight lost: (45 + 10 + 1) / 1024
    pairs = Pairs(n=20, before=11, lost=8, gained=2)
    assert decline_p(pairs) == 56 / 1024
    assert (pairs.after, pairs.gain) == (5, -0.3)


def test_signed_ranks_against_the_published_table() -> None:
    # Wilcoxon's critical values for eight pairs: a sum of 5 has 10 of 256 choices of signs below or at it, 6 has 14.
    assert signed_rank_p([1, 2, 3, 4, -5, 6, 7, 8]) == 10 / 256
    assert signed_rank_p([-1, 2, 3, 4, -5, 6, 7, 8, 0, 0]) == 14 / 256


def test_signed_ranks_share_ties_and_keep_their_level() -> None:
    assert signed_rank_p([1.0, 1.0, -1.0]) == 0.5
    drawn = np.random.default_rng(5).normal(size=(2000, 9))
    assert np.mean([signed_rank_p(row.tolist()) <= ALPHA for row in drawn]) <= 0.06


def test_nothing_asked_shows_nothing() -> None:
    empty = Pairs.of([], [])
    assert (signed_rank_p([]), decline_p(empty), non_inferiority_p(empty, MARGIN), empty.gain) == (1, 1, 1, 0)


def test_the_three_values() -> None:
    assert compare(Pairs(400, 300, 16, 16), MARGIN, ALPHA) == "not worse"
    assert compare(Pairs(400, 300, 40, 10), MARGIN, ALPHA) == "worse"
    assert compare(Pairs(40, 30, 1, 1), MARGIN, ALPHA) == "unclear"


@pytest.mark.parametrize(("margin", "alpha"), [(0.05, 0.05), (0.02, 0.05), (0.1, 0.01)])
def test_the_least_numbers_are_the_least(margin: float, alpha: float) -> None:
    n, m = least_questions(margin, alpha), least_gains(alpha)
    assert non_inferiority_p(Pairs(n, n, 0, 0), margin) <= alpha < non_inferiority_p(Pairs(n - 1, n, 0, 0), margin)
    assert signed_rank_p([1.0] * m) <= alpha < signed_rank_p([1.0] * (m - 1))
