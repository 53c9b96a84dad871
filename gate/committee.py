"""The committee's score (eq. 8, after FAIR, arXiv 2410.03663): what frozen peers make of the candidate's answers.

Accept iff Score = mean over peers k and anchors q of s_k(q) ≥ τ. FAIR's peers are different large teachers that
rate each other's rationales from 1 to 5 in words, and what is rated above 3 on average is kept as training data.
Here the peers are the base model and the parent version, which can't rate in words, so a peer's rating is how
likely it finds the candidate's answer y beside its own greedy answer y_k:

    s_k(q) = min(1, exp(mean log p_k(y | q) − mean log p_k(y_k | q)))   (means over tokens)

1 says "as good as mine", near 0 "I would never say that". Snapshots of one model are not independent jurors:
they share every error of the base, so the score shows that a candidate still speaks like its ancestors, not that
it is right. Hence it is asked on general questions only, where nothing new was taught, and stands beside the
tests on exact scores, never in their place.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from lmt2.models.base import LanguageModel
from lmt2.study.prompts import user


def ratings(peer: LanguageModel, questions: Sequence[str], answers: Sequence[str], own: Sequence[str]) -> list[float]:
    """A peer's rating, 0 to 1, of each answer beside its own one.

    An answer that is the peer's own needs no look (1). Silence has no likelihood: where just one of the two
    says nothing, the rating is 0.
    """
    scores = [float(answer == mine) for answer, mine in zip(answers, own, strict=True)]
    open_ones = [n for n, score in enumerate(scores) if not score and answers[n] and own[n]]
    conversations = [[user(questions[n])] for n in open_ones]
    theirs = peer.logprobs(conversations, [answers[n] for n in open_ones])
    mine = peer.logprobs(conversations, [own[n] for n in open_ones])
    for n, of_answer, of_own in zip(open_ones, theirs, mine, strict=True):
        scores[n] = _ratio(fmean(of_answer) - fmean(of_own))
    return scores


def score(by_peer: Sequence[Sequence[float]]) -> float | None:
    """The committee's score; None where nobody rated anything."""
    flat = [rating for peer in by_peer for rating in peer]
    return fmean(flat) if flat else None


def _ratio(difference: float) -> float:
    return 1.0 if difference >= 0 else math.exp(difference)  # a NaN stays one, and is refused by the verdict
