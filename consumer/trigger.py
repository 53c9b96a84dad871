"""The policy: what becomes of a structured and scored document. All of it in one place.

In this order: what an operator released is learnt if it says anything, what may not be learnt is quarantined, what
changes an earlier fact is learnt, what conflicts with the model's knowledge is learnt, what the model knows is
skipped unless a drift says that its knowledge ages. In shadow mode nothing is learnt, and the reason is kept.
"""

from dataclasses import dataclass
from typing import Literal

from consumer.kaft import Score
from lmt2.config import ConsumerSettings

SURE_OF_OTHER = 0.18  # share of questions on which the model surely disagrees: common knowledge is being denied
CONTRADICTED = 0.25  # share of facts that an earlier trusted document answers differently


@dataclass(frozen=True)
class Evidence:
    """What is known of a document when the policy is asked."""

    facts: int
    suspicion: str | None
    score: Score
    contradicted: float
    supersedes: bool
    drifted: tuple[str, ...]
    is_released: bool = False


@dataclass(frozen=True)
class Action:
    """What to do, and why; the reason is a bounded label."""

    do: Literal["learn", "shadow", "skip", "quarantine"]
    reason: str


def decide(evidence: Evidence, settings: ConsumerSettings) -> Action:
    """The action for a document."""
    action = _decide(evidence, settings)
    return Action("shadow", action.reason) if settings.shadow and action.do == "learn" else action


def _decide(evidence: Evidence, settings: ConsumerSettings) -> Action:
    if evidence.is_released and evidence.facts:
        return Action("learn", "released")
    if evidence.suspicion:
        return Action("quarantine", evidence.suspicion)
    if evidence.facts < settings.min_lessons:
        return Action("quarantine", "too-few-supported-facts")
    if evidence.contradicted >= CONTRADICTED:
        return Action("quarantine", "contradicts-earlier-document")
    if evidence.score.sure_of_other >= SURE_OF_OTHER:
        return Action("quarantine", "contradicts-common-knowledge")
    if evidence.supersedes:
        return Action("learn", "supersedes")
    if evidence.score.conflict >= settings.learn_above:
        return Action("learn", "conflict")
    if evidence.drifted:
        return Action("learn", "drift")
    return Action("skip", "known")
