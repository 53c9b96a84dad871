"""From figures to a verdict: a pure function, which fails closed.

Four checks, in the order in which a refusal is reported. A candidate is refused if one of them shows a fault,
inconclusive if one can't show what it must, and accepted only if all of them are content. A removal needn't have
learnt anything: the other three decide.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gate.statistics import Pairs, compare, decline_p, least_gains, least_questions, non_inferiority_p, signed_rank_p
from lmt2.config import GateSettings
from lmt2.events import Verdict

Reason = Literal[
    "accepted",
    "learnt-too-little",
    "forgets",
    "harms-general",
    "committee",
    "needs-more-anchors",
    "error",
    "rebased",
    "overtaken",
]


@dataclass(frozen=True)
class Evidence:
    """What an examination found.

    Attributes:
        probes: new documents' probes, or a removal's retracted documents', parent against candidate.
        changes: how much likelier each probe's right answer became, in nats a token; with the handful of probes that
            a document has, this tells learning from chance where hits alone can't.
        retention: facts learnt before, reference against candidate (see `gate.worker`).
        general: common knowledge, pinned best against candidate.
        committee: the committee's score, 0 to 1.
        unused: anchors that could still be asked.
        is_removal: whether it is there to forget something.
    """

    probes: Pairs
    changes: Sequence[float]
    retention: Pairs
    general: Pairs
    committee: float | None
    unused: int
    is_removal: bool = False

    @property
    def likelier(self) -> int:
        """How many probes' right answers became likelier."""
        return sum(change > 0 for change in self.changes)

    @property
    def pooled(self) -> Pairs:
        """Retention and general together: everything that must not get worse."""
        r, g = self.retention, self.general
        return Pairs(r.n + g.n, r.before + g.before, r.lost + g.lost, r.gained + g.gained)


@dataclass(frozen=True)
class Judgement:
    """The verdict, a reason from a short list, and the figures behind it in words."""

    verdict: Verdict
    reason: Reason
    detail: str


Check = Callable[[Evidence, GateSettings], Judgement | None]


def judge(evidence: Evidence | None, settings: GateSettings) -> Judgement:
    """The verdict on what was found; with no evidence or a missing figure never an acceptance."""
    if evidence is None:
        return Judgement("reject", "error", "the examination failed; the gate's log has the cause")
    if evidence.committee is None or not math.isfinite(evidence.committee):
        return Judgement("reject", "error", f"the committee's score is {evidence.committee}")
    checks = HARMLESS if evidence.is_removal else (_plasticity, *HARMLESS)
    faults = [fault for check in checks if (fault := check(evidence, settings)) is not None]
    shown = [fault for fault in faults if fault.verdict == "reject"]
    return next(iter(shown + faults), Judgement("accept", "accepted", _describe(evidence)))


def figures(evidence: Evidence | None, settings: GateSettings) -> dict[str, float]:
    """The numbers of a decision; those that aren't finite are left out, as JSON has no word for them."""
    if evidence is None:
        return {}
    scores = {
        "probes": evidence.probes.n,
        "probes_before": evidence.probes.before,
        "probes_after": evidence.probes.after,
        "likelier": evidence.likelier,
        "gain_p": signed_rank_p(evidence.changes),
        "retention": evidence.retention.n,
        "retention_before": evidence.retention.before,
        "retention_after": evidence.retention.after,
        "retention_decline_p": decline_p(evidence.retention),
        "general": evidence.general.n,
        "general_before": evidence.general.before,
        "general_after": evidence.general.after,
        "lost": evidence.pooled.lost,
        "gained": evidence.pooled.gained,
        "non_inferiority_p": non_inferiority_p(evidence.pooled, settings.margin),
        "committee": math.nan if evidence.committee is None else evidence.committee,
    }
    return {name: float(value) for name, value in scores.items() if math.isfinite(value)}


def _plasticity(evidence: Evidence, settings: GateSettings) -> Judgement | None:
    """It must have learnt: a gain that is large enough, and that chance doesn't explain."""
    probes, least = evidence.probes, least_gains(settings.significance)
    if probes.n < least:
        return _unclear(f"{probes.n} probes of the new documents; a gain can't be shown with fewer than {least}")
    told = f"{probes.before} → {probes.after} of {probes.n} probes"
    if probes.gain < settings.min_gain:
        return Judgement("reject", "learnt-too-little", f"{told}; a gain of {settings.min_gain:.0%} is asked for")
    p = signed_rank_p(evidence.changes)
    if p > settings.significance:
        likelier = f"the right answer became likelier for {evidence.likelier}"
        return _unclear(f"{told}, {likelier}: may be chance (p = {p:.3f}); {least} without a loss would show it")
    return None


def _retention(evidence: Evidence, settings: GateSettings) -> Judgement | None:
    """What was learnt earlier must not have got worse, whatever was gained elsewhere."""
    pairs = evidence.retention
    if decline_p(pairs) > settings.significance:
        return None
    return Judgement("reject", "forgets", f"{pairs.before} → {pairs.after} of {pairs.n} facts learnt earlier")


def _harm(evidence: Evidence, settings: GateSettings) -> Judgement | None:
    """It must show that it isn't worse than the pinned best by the margin."""
    pairs = evidence.pooled
    result = compare(pairs, settings.margin, settings.significance)
    if result == "not worse":
        return None
    told = f"{pairs.lost} of {pairs.n} anchors lost, {pairs.gained} gained"
    least = least_questions(settings.margin, settings.significance)
    if result == "unclear" and (evidence.unused or pairs.n < least):
        p = non_inferiority_p(pairs, settings.margin)
        return _unclear(f"{told}: not yet shown to be harmless (p = {p:.3f}); {least} unchanged ones is the least")
    return Judgement("reject", "harms-general", f"{told}; a decline under {settings.margin:.0%} isn't shown")


def _committee(evidence: Evidence, settings: GateSettings) -> Judgement | None:
    """Peers must find its answers to general questions likely enough (eq. 8)."""
    if evidence.committee is not None and evidence.committee >= settings.tau:
        return None
    return Judgement("reject", "committee", f"the committee's score {evidence.committee:.2f} is below {settings.tau}")


HARMLESS: tuple[Check, ...] = (_retention, _harm, _committee)


def _unclear(detail: str) -> Judgement:
    return Judgement("inconclusive", "needs-more-anchors", detail)


def _describe(evidence: Evidence) -> str:
    probes, pooled = evidence.probes, evidence.pooled
    whose = " of what is retracted" if evidence.is_removal else ""
    return (
        f"{probes.before} → {probes.after} of {probes.n} probes{whose}; {pooled.lost} of {pooled.n} anchors lost, "
        f"{pooled.gained} gained; committee {evidence.committee:.2f}"
    )
