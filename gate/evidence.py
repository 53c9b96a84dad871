"""What an examination finds: the candidate's answers beside those of the versions it is compared with.

General questions are compared with the pinned best. So are facts learnt earlier, as far as the pinned best was
taught their document; the others are compared with the parent: a version can't be measured by what nobody told
it, and a candidate would shine beside it for facts that are not its own merit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gate import committee
from gate.anchors import Anchor, Anchors
from gate.examination import Examiner
from gate.statistics import Pairs
from gate.verdict import Evidence
from memory.versions import Manifest

LISTED = 20  # lost anchors that a report shows


@dataclass(frozen=True)
class Bench:
    """The versions of an examination: who is examined, and who it is compared with."""

    candidate: Manifest
    parent: Manifest
    best: Manifest
    base: Manifest


def gather(examiner: Examiner, bench: Bench, anchors: Anchors) -> Evidence:
    """Everything that the verdict needs."""
    of_best, of_parent = _by_reference(bench, anchors.retention)
    remembered = examiner.hits(bench.best, of_best) + examiner.hits(bench.parent, of_parent)
    return Evidence(
        probes=Pairs.of(examiner.hits(bench.parent, anchors.probes), examiner.hits(bench.candidate, anchors.probes)),
        changes=_changes(examiner, bench, anchors.probes),
        retention=Pairs.of(remembered, examiner.hits(bench.candidate, of_best + of_parent)),
        general=Pairs.of(examiner.hits(bench.best, anchors.general), examiner.hits(bench.candidate, anchors.general)),
        committee=_committee(examiner, bench, [anchor.question for anchor in anchors.general]),
        unused=anchors.unused,
        is_removal=anchors.is_removal,
    )


def lost(examiner: Examiner, bench: Bench, anchors: Anchors) -> list[dict[str, str]]:
    """The first few anchors that the candidate no longer answers rightly, and what it says, for people to read."""
    of_best, of_parent = _by_reference(bench, anchors.retention)
    asked = [*of_best, *anchors.general, *of_parent]
    before = examiner.hits(bench.best, [*of_best, *anchors.general]) + examiner.hits(bench.parent, of_parent)
    after = examiner.hits(bench.candidate, asked)
    answers = examiner.answers(bench.candidate, [anchor.question for anchor in asked])
    return [
        {"question": anchor.question, "expected": anchor.accepted[0], "answer": answer}
        for anchor, was, is_now, answer in zip(asked, before, after, answers, strict=True)
        if was and not is_now
    ][:LISTED]


def _changes(examiner: Examiner, bench: Bench, probes: Sequence[Anchor]) -> list[float]:
    """How much likelier each probe's right answer became, in nats a token; a no-op changes nothing by exactly 0."""
    before, after = (examiner.likelihoods(version, probes) for version in (bench.parent, bench.candidate))
    return [is_now - was for was, is_now in zip(before, after, strict=True)]


def _by_reference(bench: Bench, retention: Sequence[Anchor]) -> tuple[list[Anchor], list[Anchor]]:
    """Facts that the pinned best was taught, and the others."""
    taught = {document for shard in bench.best.shards for document in shard.documents}
    of_best = [anchor for anchor in retention if anchor.document in taught]
    return of_best, [anchor for anchor in retention if anchor.document not in taught]


def _committee(examiner: Examiner, bench: Bench, questions: Sequence[str]) -> float | None:
    answers = examiner.answers(bench.candidate, questions)
    return committee.score(
        [
            committee.ratings(examiner.version(peer), questions, answers, examiner.answers(peer, questions))
            for peer in (bench.base, bench.parent)
        ]
    )
