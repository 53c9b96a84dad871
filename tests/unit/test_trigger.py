"""The policy, reason by reason: what is forbidden comes before what is new, and what is new before what is known."""

from dataclasses import replace

import pytest

from consumer.kaft import Score
from consumer.trigger import CONTRADICTED, SURE_OF_OTHER, Action, Evidence, decide
from lmt2.config import ConsumerSettings

SETTINGS = ConsumerSettings(learn_above=0.5, min_lessons=4)
KNOWN = Evidence(
    facts=4,
    suspicion=None,
    score=Score(conflict=0.49, nll=1.0, weights={}, sure_of_other=0.0),
    contradicted=0.0,
    supersedes=False,
    drifted=(),
)


def scored(conflict: float = 0.49, sure_of_other: float = 0.0) -> Score:
    return replace(KNOWN.score, conflict=conflict, sure_of_other=sure_of_other)


@pytest.mark.parametrize(
    ("evidence", "do"),
    [(KNOWN, "skip"), (replace(KNOWN, supersedes=True), "shadow"), (replace(KNOWN, suspicion="secret"), "quarantine")],
)
def test_in_shadow_mode_nothing_is_learnt_and_the_rest_is_as_ever(evidence: Evidence, do: str) -> None:
    shadow = SETTINGS.model_copy(update={"shadow": True})
    action = decide(evidence, shadow)
    assert (action.do, action.reason) == (do, decide(evidence, SETTINGS).reason)


@pytest.mark.parametrize(
    ("evidence", "do", "reason"),
    [
        (KNOWN, "skip", "known"),
        (replace(KNOWN, drifted=("nll",)), "learn", "drift"),
        (replace(KNOWN, score=scored(conflict=0.5)), "learn", "conflict"),
        (replace(KNOWN, score=scored(conflict=0.5), drifted=("conflict",)), "learn", "conflict"),
        (replace(KNOWN, supersedes=True), "learn", "supersedes"),
        (replace(KNOWN, supersedes=True, score=scored(conflict=1.0)), "learn", "supersedes"),
        (
            replace(KNOWN, supersedes=True, score=scored(sure_of_other=SURE_OF_OTHER)),
            "quarantine",
            "contradicts-common-knowledge",
        ),
        (
            replace(KNOWN, contradicted=CONTRADICTED, score=scored(sure_of_other=1.0)),
            "quarantine",
            "contradicts-earlier-document",
        ),
        (replace(KNOWN, contradicted=CONTRADICTED, supersedes=True), "quarantine", "contradicts-earlier-document"),
        (replace(KNOWN, facts=3, contradicted=1.0), "quarantine", "too-few-supported-facts"),
        (replace(KNOWN, facts=0, suspicion="secret"), "quarantine", "secret"),
        (replace(KNOWN, facts=1, contradicted=1.0, is_released=True), "learn", "released"),
        (replace(KNOWN, facts=0, is_released=True), "quarantine", "too-few-supported-facts"),
        (replace(KNOWN, suspicion="prompt-injection", drifted=("nll",)), "quarantine", "prompt-injection"),
    ],
)
def test_each_reason_and_their_order(evidence: Evidence, do: str, reason: str) -> None:
    action = decide(evidence, SETTINGS)
    assert (action.do, action.reason) == (do, reason)


def test_a_little_doubt_does_not_keep_a_document_out() -> None:
    score = scored(conflict=0.9, sure_of_other=SURE_OF_OTHER - 0.01)
    doubt = replace(KNOWN, contradicted=CONTRADICTED - 0.01, score=score)
    assert decide(doubt, SETTINGS) == Action("learn", "conflict")
