"""One update: methods make targets, the shard in training learns them, and the next round's methods see the outcome.

Each answer has an expert of the shard for itself. Asked is as in service: a question goes through the expert of the
fact that is nearest to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from learner.budget import Budget
from learner.hand import Figures, Hand, texts_of
from learner.keys import experts_of, keys_for, near_experts
from learner.methods import Build, build_all
from learner.targets import Target, fact_of
from learner.update import Report, Training
from lmt2.config import LearnerSettings
from lmt2.errors import TrainingFailed
from lmt2.events import UpdateRequest
from lmt2.models.local import LocalModel
from lmt2.scoring import normalise
from lmt2.study.lessons import LessonWriter
from memory.shards import Keys, Shard
from memory.versioned import ShardModel, VersionedModel


@dataclass(frozen=True)
class Rounds:
    """How an update is learnt.

    Attributes:
        methods: what makes the targets.
        base: the frozen model.
        reader: the teacher with the passage, where it gives distributions.
        writer: the scholar, and the encoder that facts are found by.
        rehearsal: general prompts that are held still.
        settings: sizes of a step, numbers of steps and rounds, budgets.
    """

    methods: Sequence[Build]
    base: LocalModel
    reader: LocalModel | None
    writer: LessonWriter
    rehearsal: Sequence[Target]
    settings: LearnerSettings

    def learn(
        self, request: UpdateRequest, report: Report, serve: Callable[[], VersionedModel | LocalModel]
    ) -> tuple[Shard, Figures]:
        """A trained shard for a request's lessons, and what the training was like.

        Raises:
            TrainingFailed: no method made a target, or the loss became NaN or exploded.
        """
        experts = experts_of(request.lessons)
        keys = keys_for(request.documents, request.lessons, self.writer.encoder)
        training = Training(self.base, self.rehearsal, len(experts), self.settings)
        facts = len({fact_of(lesson) for lesson in request.lessons})
        steps = self.settings.steps + round(self.settings.steps_a_fact * facts)
        hand = Hand(
            base=self.base,
            serve=serve,
            learnt=None,
            reader=self.reader if self.settings.distil else None,
            writer=self.writer,
            texts=texts_of(request.documents),
            settings=self.settings,
            budget=Budget(self.settings),
        )
        hand.figures["facts"] = facts
        for turn in range(self.settings.rounds):
            learnt = ShardModel(self.base, self.writer.encoder, training.trained().shard(keys)) if turn else None
            found = build_all(self.methods, request, replace(hand, learnt=learnt, turn=turn))
            if not found:
                raise TrainingFailed(f"no target came of learner.methods {', '.join(self.settings.methods)}")
            training.run(self._placed(found, experts, keys), max(1, steps // self.settings.rounds), report)
        trained = training.trained()
        return trained.shard(keys), {**trained.figures, **hand.figures, **hand.budget.figures}

    def _placed(self, found: Sequence[Target], experts: Mapping[str, int], keys: Keys) -> list[Target]:
        """Targets with the expert of the answer that they teach, and those that a router could take it for."""
        asked = self.writer.encoder.by_fact([target.asks for target in found])
        own = [experts[normalise(target.teaches)] for target in found]
        return [
            replace(target, expert=expert, others=near_experts(question, expert, keys))
            for target, expert, question in zip(found, own, asked, strict=True)
        ]
