"""What versions answer to the anchors: greedily, and each question only once for each shard it is routed to.

A version is the frozen base with at most one shard on a question, and greedy decoding draws nothing at random. So
an answer is a function of the question and the shard's content alone (or of the question, where none is
chosen), whichever version asks: answers are kept under (question, artifact), and a question whose route didn't
change isn't generated again. Sums in bfloat16 may round differently in another batch; with kept answers that
can't pass for a gain or a loss.
"""

from collections.abc import Sequence
from statistics import fmean

from gate.anchors import Anchor
from lmt2.artifacts import ArtifactStore
from lmt2.models.base import Sampling
from lmt2.models.encoder import Embeds, Remembering
from lmt2.models.local import LocalModel
from lmt2.scoring import hit
from lmt2.study.prompts import user
from memory.versioned import Shelf, VersionedModel
from memory.versions import Manifest

ANSWERS = Sampling(max_new_tokens=24)


class Examiner:
    """Asks versions questions."""

    def __init__(self, store: ArtifactStore, model: LocalModel, encoder: Embeds) -> None:
        self._model = model
        self._encoder = Remembering(encoder)
        self._shelf = Shelf(store, model)
        self._answers: dict[tuple[str, str | None], str] = {}

    def version(self, manifest: Manifest) -> VersionedModel:
        """A version as it would be served; raises ArtifactError if a shard is damaged."""
        return VersionedModel(self._model, self._encoder, self._shelf, manifest)

    def answers(self, manifest: Manifest, questions: Sequence[str]) -> list[str]:
        """A version's greedy answers."""
        if not questions:
            return []
        version = self.version(manifest)
        routes = version.route(questions)
        artifacts = [None if route is None else manifest.shards[route.shard].artifact for route in routes]
        keys = list(zip(questions, artifacts, strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self._answers]
        written = version.generate([[user(question)] for question, _ in new], ANSWERS)
        self._answers.update(zip(new, written, strict=True))
        return [self._answers[key] for key in keys]

    def hits(self, manifest: Manifest, anchors: Sequence[Anchor]) -> list[bool]:
        """Which anchors a version answers rightly."""
        answers = self.answers(manifest, [anchor.question for anchor in anchors])
        return [hit(answer, anchor.accepted) for answer, anchor in zip(answers, anchors, strict=True)]

    def likelihoods(self, manifest: Manifest, anchors: Sequence[Anchor]) -> list[float]:
        """Mean log-probability of each anchor's first accepted answer, in nats a token."""
        tasks = [[user(anchor.question)] for anchor in anchors]
        rows = self.version(manifest).logprobs(tasks, [anchor.accepted[0] for anchor in anchors])
        return [fmean(row) for row in rows]
