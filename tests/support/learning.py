"""A small request, and what a method has at hand in a test: the tiny model, scripted students, a teacher that reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.budget import Budget
from learner.hand import Hand, texts_of
from lmt2.config import LearnerSettings, StudySettings
from lmt2.events import Document, Lesson, LessonKind, UpdateRequest
from lmt2.models.base import LanguageModel, TokenIds
from lmt2.models.local import LocalModel
from lmt2.study.lessons import LessonWriter
from lmt2.study.passages import sentences
from lmt2.study.scholar import Scholar
from tests.support.gate import WHEN
from tests.support.scripted import Book
from tests.support.tiny import WordEncoder

VELL = Document(id="vell", text="Ida Brandt keeps the lamp at Vell. The Vell tower has 412 steps.")
KEEPER = ("Who keeps the lamp at Vell?", "Whose job is the lamp of Vell?", "In Vell, which person tends the light?")
STEPS = "How many steps has the Vell tower?"
SETTINGS = LearnerSettings(
    layers=(1, 3), shared_rank=2, expert_rank=1, steps=2, steps_a_fact=1, lessons_a_step=2, general_a_step=0
)


def lesson(question: str, answer: str, kind: LessonKind = "direct", weight: float = 1.0) -> Lesson:
    """A lesson of VELL."""
    sentence = next(s for s in sentences(VELL.text) if answer in s)
    return Lesson(question=question, answer=answer, kind=kind, document="vell", sentence=sentence, weight=weight)


def request(*lessons: Lesson) -> UpdateRequest:
    """An update that teaches VELL by these lessons."""
    return UpdateRequest(
        id="u-1", documents=(VELL,), lessons=lessons, probes=(), replaces=(), reason="conflict", event_time=WHEN
    )


REQUEST = request(*(lesson(question, "Ida Brandt") for question in KEEPER), lesson(STEPS, "412"))


class Teacher(LocalModel):
    """Reads as it is told: its greedy answer is the given one, whatever the passage, except for some questions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "float32")
        self.tasks: list[str] = []
        self.wrong: set[str] = set()

    def answer_logits(self, prompts: Sequence[TokenIds], answers: Sequence[TokenIds]) -> Iterator[Tensor]:
        """Random logits, by the task's length, with the answer's tokens on top."""
        for task, answer in zip(map(self.decode, prompts), answers, strict=True):
            self.tasks.append(task)
            logits = torch.randn(len(answer), 49152, generator=torch.Generator().manual_seed(len(task)))
            logits[range(len(answer)), answer] = 20.0
            if any(question in task for question in self.wrong):
                logits[-1, 7] = 30.0  # goes on where the answer should end
            yield logits


def hand(
    base: LocalModel,
    scholar: Scholar | None = None,
    reader: LocalModel | None = None,
    learnt: LanguageModel | None = None,
    documents: Sequence[Document] = (VELL,),
    turn: int = 0,
    **settings: Any,
) -> Hand:
    """What a method has at hand: a scholar that knows nothing unless one is given, and the base model served."""
    chosen = SETTINGS.model_copy(update=settings)
    writer = LessonWriter(scholar or Book({}).scholar, WordEncoder(), StudySettings())
    return Hand(base, lambda: base, learnt, reader, writer, texts_of(documents), chosen, Budget(chosen), turn)
