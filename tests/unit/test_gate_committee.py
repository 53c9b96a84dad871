"""The committee's score: who agrees gets 1, who says what a peer never would gets next to nothing."""

import math
from collections.abc import Sequence

import pytest

from gate.committee import ratings, score
from lmt2.models.base import Conversation, Sampling


class Peer:
    """Finds every token of a known answer as likely as it was told, and remembers what it was asked."""

    def __init__(self, logprob: dict[str, float]) -> None:
        self.logprob = logprob
        self.asked: list[str] = []

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        raise AssertionError(f"{conversations} with {sampling}: a peer's answers are known before")

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        assert len(conversations) == len(answers)
        self.asked += answers
        return [[self.logprob[answer]] * len(answer.split()) for answer in answers]


def test_a_rating_is_the_ratio_of_likelihoods_a_token() -> None:
    peer = Peer({"Paris": -0.1, "in Lyon": -2.1})
    assert ratings(peer, ["q"], ["in Lyon"], ["Paris"]) == [pytest.approx(math.exp(-2.0))]


def test_an_answer_that_the_peer_likes_better_than_its_own_is_as_good() -> None:
    assert ratings(Peer({"a": -0.5, "b": -1.0}), ["q"], ["a"], ["b"]) == [1.0]


def test_the_same_answer_needs_no_look() -> None:
    peer = Peer({"x": -3.0, "y": -1.0})
    assert ratings(peer, ["q1", "q2"], ["same", "x"], ["same", "y"])[0] == 1.0
    assert "same" not in peer.asked


def test_silence() -> None:
    assert ratings(Peer({}), ["q1", "q2", "q3"], ["", "a", ""], ["a", "", ""]) == [0.0, 0.0, 1.0]


def test_a_nan_is_not_taken_for_agreement() -> None:
    found = ratings(Peer({"a": math.nan, "b": -1.0}), ["q"], ["a"], ["b"])
    assert math.isnan(found[0])
    assert math.isnan(score([found, [1.0]]) or 0.0)


def test_the_score_is_the_mean_over_peers_and_anchors() -> None:
    assert score([[1.0, 0.0], [0.5, 0.5]]) == 0.5
    assert score([[], []]) is None
