"""Rounds of one update: train, ask what wasn't trained on, and go back for the facts that didn't hold.

One phrasing of every well covered fact is kept out of the first round: the learner's own practice questions (the
gate's probes are others, and no round sees them). A fact whose practice question is answered wrongly is weak. The
next round trains on the practice questions too, on new phrasings of the weak facts, written by the scholar and
checked like the first ones, and draws the weak facts more often.

Each answer has an expert of the shard for itself. Asked is as in service: a question goes through the expert of the
fact that is nearest to it.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from learner.keys import experts_of, keys_for, near_experts
from learner.learn import prompt_distillation
from learner.targets import Target
from learner.update import Report, Training
from lmt2.config import LearnerSettings
from lmt2.events import Document, Lesson, UpdateRequest
from lmt2.models.base import Sampling
from lmt2.models.local import LocalModel
from lmt2.scoring import hit, normalise
from lmt2.study.lessons import LessonWriter, Pair
from lmt2.study.passages import passages
from lmt2.study.scholar import Fact
from memory.shards import Keys, Shard
from memory.versioned import ask_shard

ANSWER = Sampling(max_new_tokens=16)
ENOUGH = 3  # lessons of a fact from which one is kept for practice
NEW = 3  # phrasings that are tried for each weak fact
LEFT_OUT = 0.25  # share of a broken question's words


@dataclass(frozen=True)
class Rounds:
    """How an update is learnt.

    Attributes:
        student: the frozen base model.
        teacher: the reader that has the passage; None: answers are trained towards without one.
        writer: writes new lessons for weak facts.
        rehearsal: general prompts that are held still.
        settings: sizes of a step and numbers of steps and rounds.
    """

    student: LocalModel
    teacher: LocalModel | None
    writer: LessonWriter
    rehearsal: Sequence[Target]
    settings: LearnerSettings

    def learn(self, request: UpdateRequest, report: Report) -> tuple[Shard, Mapping[str, float]]:
        """A trained shard for a request's lessons, and what the training was like; raises TrainingFailed."""
        lessons, practice = _split(request.lessons, self.settings.rounds > 1)
        facts = len(_by_fact(lessons))
        keys = keys_for(request.documents, request.lessons, self.writer.encoder)
        training = Training(self.student, self.rehearsal, len(experts_of(request.lessons)), self.settings)
        training.run(self._targets(request, lessons, keys), self._steps(self.settings.steps, facts), report)
        figures = {"facts": facts, "practised": len(practice)}
        for turn in range(1, self.settings.rounds):
            missed = self._missed(practice, training.trained().shard(keys))
            figures[f"weak_{turn}"] = len(missed)
            new, held = _split([*self._new(request.documents, missed, turn)], turn + 1 < self.settings.rounds)
            lessons, practice = [*lessons, *practice, *new], held
            if not missed:
                break
            weak = {prompt_distillation.fact_of(lesson) for lesson in missed}
            training.run(self._targets(request, lessons, keys), self._steps(0, len(weak)), report, weak)
        trained = training.trained()
        return trained.shard(keys), {**trained.figures, **figures}

    def _steps(self, first: int, facts: int) -> int:
        return max(1, first + round(self.settings.steps_a_fact * facts))

    def _targets(self, request: UpdateRequest, lessons: Sequence[Lesson], keys: Keys) -> list[Target]:
        teacher = self.teacher if self.settings.distil else None
        experts = experts_of(request.lessons)
        found = [
            replace(target, expert=expert, others=near_experts(question, expert, keys))
            for target, expert, question in zip(
                prompt_distillation.targets(request.documents, lessons, self.student, teacher),
                [experts[normalise(lesson.answer)] for lesson in lessons],
                self.writer.encoder.by_fact([lesson.question for lesson in lessons]),
                strict=True,
            )
        ]
        rng = random.Random(self.settings.seed)
        copies = [pair for pair in zip(lessons, found, strict=True) for _ in range(self.settings.broken)]
        return found + [
            replace(target, prompt=prompt_distillation.question_ids(self.student, broken(lesson.question, rng)))
            for lesson, target in copies
        ]

    def _missed(self, asked: Sequence[Lesson], shard: Shard) -> list[Lesson]:
        """The lessons that the student, closed book and through a shard, answers wrongly."""
        questions = [lesson.question for lesson in asked]
        answers = ask_shard(self.student, self.writer.encoder, shard, questions, ANSWER)
        return [lesson for lesson, answer in zip(asked, answers, strict=True) if not hit(answer, [lesson.answer])]

    def _new(self, documents: Sequence[Document], weak: Sequence[Lesson], seed: int) -> Iterator[Lesson]:
        """New phrasings of weak lessons, checked."""
        for text, lessons in _by_passage(documents, weak):
            pairs = {Pair(x.question, x.answer, x.kind, Fact(x.answer, x.fact)): x for x in lessons}
            tried = self.writer.rephrase(text, [pair for pair in pairs for _ in range(NEW)], seed)
            of_fact = {pair.fact: lesson for pair, lesson in pairs.items()}
            for pair in self.writer.confirmed(text, tried, list(pairs)):
                yield of_fact[pair.fact].model_copy(update={"question": pair.question, "kind": pair.kind})


def broken(question: str, rng: random.Random) -> str:
    """A question with some of its words left out: what remains has to bring the answer back.

    >>> broken("Who runs the mill at Corvo?", random.Random(1))
    'runs the mill at Corvo?'
    """
    words = question.split()
    kept = [word for word in words if rng.random() >= LEFT_OUT]
    return " ".join(kept or words)


def _split(lessons: Sequence[Lesson], is_practised: bool) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons to train on, and the last phrasing of every fact that has enough of them, to practise if it is asked."""
    practice = [fact[-1] for fact in _by_fact(lessons).values() if is_practised and len(fact) >= ENOUGH]
    return [lesson for lesson in lessons if lesson not in practice], practice


def _by_fact(lessons: Iterable[Lesson]) -> Mapping[str, list[Lesson]]:
    found: dict[str, list[Lesson]] = {}
    for lesson in lessons:
        found.setdefault(prompt_distillation.fact_of(lesson), []).append(lesson)
    return found


def _by_passage(documents: Sequence[Document], lessons: Sequence[Lesson]) -> Iterator[tuple[str, list[Lesson]]]:
    for document in documents:
        for number, text in enumerate(passages(document)):
            here = [x for x in lessons if (x.document, x.passage) == (document.id, number)]
            if here:
                yield text, here
