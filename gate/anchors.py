"""What a candidate is examined on: probes of what it should have learnt, and anchors for what it should have kept.

Training questions are never used: probes are phrasings that were held back from the learner, and of the general
questions the learner rehearses the even ones and the gate asks the odd ones.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from lmt2.config import GateSettings
from lmt2.data import GeneralQuestion, general
from lmt2.events import Lesson, UpdateRequest
from lmt2.ledger import DocumentRow, UpdateRow, lessons_of
from memory.versions import Manifest


@dataclass(frozen=True)
class Anchor:
    """A question, the answers that count as right, and the document that states the fact (empty: common knowledge)."""

    question: str
    accepted: tuple[str, ...]
    document: str = ""


@dataclass(frozen=True)
class Anchors:
    """An examination's questions. `unused` ones exist too, but the settings' limits left them out.

    Probes of a removal ask for what is to be forgotten; they are asked for the record, and nothing is expected of them.
    """

    probes: tuple[Anchor, ...]
    retention: tuple[Anchor, ...]
    general: tuple[Anchor, ...]
    unused: int
    is_removal: bool = False

    @property
    def fingerprint(self) -> str:
        """Names the set of general questions: scores on different sets can't be compared."""
        return hashlib.sha256(json.dumps([astuple(anchor) for anchor in self.general]).encode()).hexdigest()[:12]


def odd_general() -> list[GeneralQuestion]:
    """The general questions that are the gate's."""
    return list(general()[1::2])


def choose(
    session: Session,
    request: UpdateRequest,
    present: Manifest,
    common: Sequence[GeneralQuestion],
    settings: GateSettings,
) -> Anchors:
    """The questions for an update on top of the present version.

    An update may rebuild the shard of documents that it `replaces`. Their probes that still hold belong to
    retention: they must not get worse, and as probes would hide how little was learnt. They are all asked. The
    other retention anchors are a sample drawn anew for every update, so that each fact has its turn; the general
    ones are always the same, so that versions can be ranked by them. What is retracted is nobody's anchor any more.
    """
    trained = {lesson.question for lesson in request.lessons}
    gone = [shard.update for shard in present.shards if set(shard.documents) & set(request.replaces)]
    stay = [shard.update for shard in present.shards if shard.update not in gone]
    probes = [_anchor(probe) for probe in request.probes if probe.question not in trained]
    leaving = [_anchor(probe) for probe in lessons_of(session, request.retracts, held_out=True)]
    before = set(_probes_of(session, gone))
    kept = [anchor for anchor in _probes_of(session, stay) if anchor.question not in trained]
    asked = [Anchor(g.q, tuple(g.a)) for g in common if g.q not in trained]
    drawn = _sample(kept, settings.retention_anchors, request.id)
    fixed = _sample(asked, settings.general_anchors, "general")
    return Anchors(
        probes=tuple(leaving if request.retracts else (anchor for anchor in probes if anchor not in before)),
        retention=(*(anchor for anchor in probes if anchor in before), *drawn),
        general=tuple(fixed),
        unused=len(kept) - len(drawn) + len(asked) - len(fixed),
        is_removal=bool(request.retracts),
    )


def _probes_of(session: Session, updates: Sequence[str]) -> list[Anchor]:
    """Probes of the learnt documents of some updates.

    They are taken from the requests behind the present version's shards and not from all documents ever learnt:
    a request's probes have the answers that held then, and a version that was rolled back has no shard.
    """
    payloads = session.scalars(select(UpdateRow.payload).where(UpdateRow.id.in_(updates)).order_by(UpdateRow.id))
    probes = [probe for payload in payloads for probe in UpdateRequest.model_validate(payload).probes]
    learnt = set(session.scalars(select(DocumentRow.id).where(DocumentRow.state == "learnt")))
    return [_anchor(probe) for probe in probes if probe.document in learnt]


def _anchor(probe: Lesson) -> Anchor:
    return Anchor(probe.question, (probe.answer,), probe.document)


def _sample(anchors: Sequence[Anchor], limit: int, seed: str) -> list[Anchor]:
    return random.Random(seed).sample(anchors, min(limit, len(anchors)))
