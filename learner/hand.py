"""What a method has at hand: the student, the teacher that reads, the writer, and a budget that all of them draw on.

Whatever a method has written or read here is counted, and refused with BudgetSpent once the budget is spent.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat

from torch import Tensor

from learner.budget import Budget
from learner.targets import Target, answer_ids, target_of
from lmt2.config import LearnerSettings
from lmt2.events import Document, Lesson
from lmt2.models.base import Conversation, LanguageModel, Sampling, TokenIds
from lmt2.models.local import LocalModel
from lmt2.study import prompts
from lmt2.study.lessons import LessonWriter
from lmt2.study.passages import passages
from memory.versioned import VersionedModel

Figures = dict[str, float | str]


@dataclass(frozen=True)
class Hand:
    """All that a method may use.

    Attributes:
        base: the frozen model without any shard.
        serve: opens what is promoted now: its answers are the student's before this update.
        learnt: the shard in training as a model, from the second round on.
        reader: the teacher with the passage, where it gives distributions; None: only its answers are to be had.
        writer: the scholar that reads, judges and writes, and the encoder.
        texts: the passages of each document.
        settings: the learner's.
        budget: of the update.
        turn: number of the round, from 0.
        figures: what the update will be told of by; a method adds its own.
    """

    base: LocalModel
    serve: Callable[[], VersionedModel | LocalModel]
    learnt: LanguageModel | None
    reader: LocalModel | None
    writer: LessonWriter
    texts: Mapping[str, Sequence[str]]
    settings: LearnerSettings
    budget: Budget
    turn: int = 0
    figures: Figures = field(default_factory=dict)

    @cached_property
    def served(self) -> VersionedModel | LocalModel:
        """The promoted snapshot."""
        return self.serve()

    @property
    def student(self) -> LanguageModel:
        """The student as it is now, closed book: the promoted snapshot, or in a later round the shard in training."""
        return self.learnt or self.served

    def passage(self, lesson: Lesson) -> str:
        """The passage that a lesson is about; the first where the text no longer has that one."""
        found = self.texts[lesson.document]
        return found[lesson.passage] if lesson.passage < len(found) else found[0]

    def say(self, model: LanguageModel, tasks: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """What a model says to these conversations."""
        self.budget.check()
        return self._counted(model.generate(tasks, replace(sampling, seed=sampling.seed + self.settings.seed)))

    def read(self, lessons: Sequence[Lesson], questions: Sequence[str]) -> list[str]:
        """The reader's answers to questions, each from the passage of its lesson, or `not stated`."""
        return self._by_passage(lessons, questions, self._read)

    def asked_otherwise(self, lessons: Sequence[Lesson]) -> list[str]:
        """Each lesson's question in other words, by the writer; unchecked."""
        return self._by_passage(lessons, [lesson.question for lesson in lessons], self._asked_otherwise)

    def distilled(self, lessons: Sequence[Lesson], context: Mapping[str, str] | None = None) -> Iterator[Target]:
        """One target a lesson: the reader's distributions where it answers so greedily, else the answer alone.

        Args:
            lessons: what is taught.
            context: what stands before the passages of a document, if anything.
        """
        answers = [answer_ids(self.base, lesson.answer) for lesson in lessons]
        for lesson, teacher in zip(lessons, self._distributions(lessons, answers, context or {}), strict=False):
            yield target_of(self.base, lesson, teacher=teacher)

    def _distributions(
        self, lessons: Sequence[Lesson], answers: Sequence[TokenIds], context: Mapping[str, str]
    ) -> Iterator[Tensor | None]:
        """The reader's log-probabilities [T, V] of each answer, None where its own answer is another one."""
        if self.reader is None:
            yield from repeat(None, len(lessons))
            return
        before = [context.get(lesson.document, "") for lesson in lessons]
        tasks = [prompts.read(b + self.passage(x), x.question) for b, x in zip(before, lessons, strict=True)]
        found = self.reader.answer_logits([self.reader.encode(task) for task in tasks], answers)
        for answer, logits in zip(answers, found, strict=True):
            yield logits.log_softmax(-1).bfloat16() if logits.argmax(-1).tolist() == answer else None

    def _by_passage(
        self,
        lessons: Sequence[Lesson],
        questions: Sequence[str],
        ask: Callable[[str, Sequence[Lesson], Sequence[str]], list[str]],
    ) -> list[str]:
        """What is said to each question, those of a passage asked together."""
        places: dict[str, list[int]] = {}
        for number, lesson in enumerate(lessons):
            places.setdefault(self.passage(lesson), []).append(number)
        said = dict[int, str]()
        for passage, numbers in places.items():
            self.budget.check()
            texts = ask(passage, [lessons[n] for n in numbers], [questions[n] for n in numbers])
            said.update(zip(numbers, self._counted(texts), strict=True))
        return [said[number] for number in range(len(lessons))]

    def _read(self, passage: str, _: Sequence[Lesson], questions: Sequence[str]) -> list[str]:
        self.budget.count(teacher_calls=len(questions))
        return self.writer.scholar.read(passage, questions)

    def _asked_otherwise(self, passage: str, lessons: Sequence[Lesson], questions: Sequence[str]) -> list[str]:
        pairs = [(question, lesson.answer) for question, lesson in zip(questions, lessons, strict=True)]
        return self.writer.scholar.rephrase(passage, pairs, self.settings.seed + self.turn)

    def _counted(self, texts: list[str]) -> list[str]:
        self.budget.count(tokens=sum(len(self.base.encode_text(text)) for text in texts))
        return texts


def texts_of(documents: Iterable[Document]) -> dict[str, list[str]]:
    """The passages of each document."""
    return {document.id: passages(document) for document in documents}
