"""Every reason that the gate can give, what it is given for, and that a missing figure never means yes."""

import math
from dataclasses import replace

import pytest

from gate.statistics import Pairs
from gate.verdict import Evidence, figures, judge
from lmt2.config import GateSettings

SETTINGS = GateSettings()
GOOD = Evidence(
    probes=Pairs(n=10, before=1, lost=0, gained=7),
    changes=[2.0] * 10,
    retention=Pairs(n=60, before=40, lost=1, gained=1),
    general=Pairs(n=160, before=90, lost=1, gained=1),
    committee=0.98,
    unused=0,
)


def changed(**fields: object) -> Evidence:
    return replace(GOOD, **fields)  # type: ignore[arg-type]


FORGETFUL = changed(probes=Pairs(n=4, before=4, lost=4, gained=0), is_removal=True)


def test_a_removal_needs_no_gain_and_is_held_to_the_rest() -> None:
    assert judge(FORGETFUL, SETTINGS).verdict == "accept"
    assert "4 → 0 of 4 probes of what is retracted" in judge(FORGETFUL, SETTINGS).detail
    for fault in ({"retention": Pairs(60, 40, 5, 0)}, {"general": Pairs(160, 90, 30, 2)}, {"committee": 0.3}):
        assert judge(replace(FORGETFUL, **fault), SETTINGS).verdict == "reject"


REFUSED = {
    "learnt nothing": (changed(probes=Pairs(10, 1, 0, 0)), "reject", "learnt-too-little"),
    "learnt less than asked for": (changed(probes=Pairs(100, 10, 0, 15)), "reject", "learnt-too-little"),
    "gain that chance explains": (changed(changes=[1.0] * 6 + [-1.0] * 4), "inconclusive", "needs-more-anchors"),
    "too few probes": (changed(probes=Pairs(4, 0, 0, 4)), "inconclusive", "needs-more-anchors"),
    "no probes": (changed(probes=Pairs(0, 0, 0, 0)), "inconclusive", "needs-more-anchors"),
    "forgets": (changed(retention=Pairs(60, 40, 5, 0)), "reject", "forgets"),
    "forgets, though it gains elsewhere": (
        changed(retention=Pairs(60, 40, 6, 0), general=Pairs(160, 90, 0, 20)),
        "reject",
        "forgets",
    ),
    "harms": (changed(general=Pairs(160, 90, 30, 2)), "reject", "harms-general"),
    "harm neither shown nor excluded": (changed(general=Pairs(160, 90, 12, 8)), "reject", "harms-general"),
    "the same, with questions left": (
        changed(general=Pairs(160, 90, 12, 8), unused=50),
        "inconclusive",
        "needs-more-anchors",
    ),
    "too few anchors": (
        changed(general=Pairs(30, 20, 0, 0), retention=Pairs(0, 0, 0, 0)),
        "inconclusive",
        "needs-more-anchors",
    ),
    "no anchors": (
        changed(general=Pairs(0, 0, 0, 0), retention=Pairs(0, 0, 0, 0)),
        "inconclusive",
        "needs-more-anchors",
    ),
    "peers object": (changed(committee=0.3), "reject", "committee"),
    "a fault outweighs a doubt": (changed(probes=Pairs(4, 0, 0, 4), committee=0.3), "reject", "committee"),
    "no evidence": (None, "reject", "error"),
    "no committee": (changed(committee=None), "reject", "error"),
    "a committee that says NaN": (changed(committee=math.nan), "reject", "error"),
    "a committee that says infinity": (changed(committee=math.inf), "reject", "error"),
}


@pytest.mark.parametrize(("evidence", "verdict", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_accepted(evidence: Evidence | None, verdict: str, reason: str) -> None:
    found = judge(evidence, SETTINGS)
    assert (found.verdict, found.reason) == (verdict, reason)
    assert found.detail


def test_what_is_accepted() -> None:
    found = judge(GOOD, SETTINGS)
    assert (found.verdict, found.reason) == ("accept", "accepted")
    assert found.detail == "1 → 8 of 10 probes; 2 of 220 anchors lost, 2 gained; committee 0.98"


def test_the_first_update_has_nothing_to_forget() -> None:
    assert judge(changed(retention=Pairs(0, 0, 0, 0)), SETTINGS).verdict == "accept"


def test_figures_are_finite_whatever_happened() -> None:
    for evidence in (GOOD, changed(committee=math.nan), changed(committee=None), None):
        assert all(math.isfinite(value) for value in figures(evidence, SETTINGS).values())
    assert figures(GOOD, SETTINGS)["probes_after"] == 8
    assert "committee" not in figures(changed(committee=math.nan), SETTINGS)
