"""The questions of all earlier lessons, each embedded once: which of them ask nearly the same as a new one?

Kept in memory and brought up to date from the ledger before each look, whoever wrote there meanwhile: the consumer of
another partition, a retraction, a rollback. A question takes 1.5 KB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from lmt2.events import Lesson
from lmt2.ledger import DocumentRow, LessonRow
from lmt2.models.encoder import Embeds

LIVE = ("requested", "learnt", "known", "shadowed")  # states of documents that were let in
SAME_QUESTION = 0.8  # cosine of two questions' embeddings from which they ask the same thing
AT_ONCE = 1000  # lessons that are read and embedded together


@dataclass(frozen=True)
class Alike:
    """A new lesson and an earlier one that ask nearly the same."""

    new: Lesson
    old: Lesson


class EarlierQuestions:
    """All questions and probes of documents that were let in."""

    def __init__(self, encoder: Embeds) -> None:
        self._encoder = encoder
        self._numbers: list[int] = []  # of their rows in the ledger
        self._embeddings = torch.empty(0, 0)  # [N, E]

    def alike(self, session: Session, lessons: Sequence[Lesson]) -> list[Alike]:
        """Each earlier lesson that asks nearly the same as one of these, with the nearest of them."""
        self._catch_up(session)
        if not lessons or not self._numbers:
            return []
        nearness = self._embeddings @ self._encoder([x.question for x in lessons]).T
        values, indices = nearness.max(dim=1)
        places, nearest = (values >= SAME_QUESTION).nonzero().flatten().tolist(), indices.tolist()
        olds = _read(session, [self._numbers[place] for place in places])
        return [Alike(new=lessons[nearest[place]], old=olds[self._numbers[place]]) for place in places]

    def _catch_up(self, session: Session) -> None:
        live = select(LessonRow.id).join(DocumentRow, DocumentRow.id == LessonRow.document_id)
        present = list(session.scalars(live.where(DocumentRow.state.in_(LIVE)).order_by(LessonRow.id)))
        staying, known = set(present), set(self._numbers)
        if staying != known:
            kept = [place for place, number in enumerate(self._numbers) if number in staying]
            self._numbers, self._embeddings = [self._numbers[place] for place in kept], self._embeddings[kept]
        new = [number for number in present if number not in known]
        for start in range(0, len(new), AT_ONCE):
            self._add(session, new[start : start + AT_ONCE])

    def _add(self, session: Session, numbers: Sequence[int]) -> None:
        lessons = _read(session, numbers)
        embeddings = self._encoder([lessons[number].question for number in numbers])
        self._embeddings = torch.cat([self._embeddings, embeddings]) if self._numbers else embeddings
        self._numbers += numbers


def _read(session: Session, numbers: Sequence[int]) -> dict[int, Lesson]:
    rows = session.scalars(select(LessonRow).where(LessonRow.id.in_(numbers)))
    return {row.id: row.lesson for row in rows}
