"""One micro-update: targets in, a trained shard out. It knows neither where targets come from nor what is served.

Fresh low-rank experts are trained on the answer tokens of lessons drawn evenly over facts, with general prompts
held to the base model in every step. AdamW; each round has a short warm-up and a linear decay to a tenth, the
second from half the learning rate, the third from a third.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from learner.losses import token_cross_entropy, token_kl, weighted_mean
from learner.targets import Target
from learner.top import TopLayers
from lmt2.config import LearnerSettings
from lmt2.errors import TrainingFailed
from lmt2.models.compute import compute
from lmt2.models.local import LocalModel
from memory.shards import SHARED, Keys, Shard

WARM_UP = 5
ALPHA_OVER_RANK = 2
MISROUTED = 0.1  # share of lessons that go through a near fact's expert
EXPLODED = 50.0  # nats a token; chance level is ln V, about 11
Report = Callable[[int, int, float], None]


class Experts(nn.Module):
    """The shard in training: float32 factors A [R, F] and B [D, R] on each edited layer, B zero at first.

    Args:
        layers: numbers of the edited layers.
        ranks: expert [R] of each rank, SHARED for the first ones.
        inner: the MLP's inner width F.
        hidden: the model's width D.
        seed: of A's random values.
    """

    def __init__(self, layers: Sequence[int], ranks: Tensor, inner: int, hidden: int, seed: int) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(inner)
        self.ranks = ranks
        self.a = nn.ParameterDict(
            {str(n): nn.Parameter((torch.rand(len(ranks), inner, generator=stream) * 2 - 1) * bound) for n in layers}
        )
        self.b = nn.ParameterDict({str(n): nn.Parameter(torch.zeros(hidden, len(ranks))) for n in layers})

    def through(self, experts: Sequence[int], lengths: Sequence[int]) -> "Gated":
        """The side memory for a step's row: an opening that goes through none, then targets through their experts."""
        gates = [torch.zeros(len(self.ranks), dtype=torch.bool)]
        gates += [(self.ranks == SHARED) | (self.ranks == expert) for expert in experts]
        return Gated(self, torch.stack(gates).repeat_interleave(torch.tensor(lengths), dim=0))

    def factors(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """A and B by layer as they are kept: LoRA's alpha over rank folded into B, bfloat16."""
        return (
            {int(n): a.detach().bfloat16() for n, a in self.a.items()},
            {int(n): (ALPHA_OVER_RANK * b.detach()).bfloat16() for n, b in self.b.items()},
        )


@dataclass(frozen=True)
class Gated:
    """Experts with a gate [N, R] for each token of a row."""

    experts: Experts
    gates: Tensor

    def add(self, layer: int, activations: Tensor, output: Tensor) -> Tensor:
        """Output [1, N, D] + 2 B (gates · A activations [1, N, F])."""
        if str(layer) not in self.experts.a:
            return output
        low = activations @ self.experts.a[str(layer)].to(activations.dtype).T * self.gates
        changed: Tensor = output + ALPHA_OVER_RANK * (low @ self.experts.b[str(layer)].to(activations.dtype).T)
        return changed


@dataclass(frozen=True)
class Trained:
    """Trained experts and what the training was like."""

    a: Mapping[int, Tensor]
    b: Mapping[int, Tensor]
    ranks: Tensor
    figures: Mapping[str, float]

    def shard(self, keys: Keys) -> Shard:
        """The shard that these keys lead to."""
        return Shard(self.a, self.b, self.ranks, keys)


class Training:
    """A shard in training, over one or several rounds of lessons.

    Args:
        model: the frozen student.
        rehearsal: general prompts that every step holds to the base model.
        experts: how many there are, beside the shared one.
        settings: the shard's shape and the sizes of a step.
    """

    def __init__(self, model: LocalModel, rehearsal: Sequence[Target], experts: int, settings: LearnerSettings) -> None:
        config = model.net.config
        ranks = [SHARED] * settings.shared_rank + [n for n in range(experts) for _ in range(settings.expert_rank)]
        self._experts = Experts(
            settings.layers,
            torch.tensor(ranks, dtype=torch.int32),
            config.intermediate_size,
            config.hidden_size,
            settings.seed,
        )
        self._count = experts
        self._rng = random.Random(settings.seed)
        self._model = model
        self._rehearsal = rehearsal
        self._settings = settings
        self._optimizer = torch.optim.AdamW(self._experts.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        self._losses: list[float] = []
        self._rounds = 0

    def run(self, lessons: Sequence[Target], steps: int, report: Report) -> None:
        """One round; `report` is told the step, of how many, and the loss.

        Raises:
            TrainingFailed: the loss became NaN or exploded; the experts are of no use.
        """
        self._rounds += 1
        rate = self._settings.learning_rate / self._rounds
        top = TopLayers(self._model, min(self._settings.layers), [*lessons, *self._rehearsal])
        draw = _Draw(lessons, self._rehearsal, self._settings, self._rounds)
        for step in range(steps):
            for group in self._optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARM_UP) * (1 - 0.9 * step / steps)
            self._step(top, draw.lessons(step / steps), draw.rehearsal())
            report(step + 1, steps, self._losses[-1])

    def trained(self) -> Trained:
        """What came of it so far."""
        a, b = self._experts.factors()
        figures = {"loss_first": self._losses[0], "loss_last": fmean(self._losses[-10:]), "steps": len(self._losses)}
        return Trained(a, b, self._experts.ranks, figures)

    def _step(self, top: TopLayers, new: Sequence[Target], general: Sequence[Target]) -> None:
        batch = [*new, *general]
        gated = self._experts.through([self._expert(target) for target in batch], top.lengths(batch))
        with compute.background(), self._model.use(gated):
            loss = _loss(top.logits(batch), batch, len(new))
            self._losses.append(loss.item())
            if not math.isfinite(self._losses[-1]) or self._losses[-1] > EXPLODED:
                at = f"{self._losses[-1]} at step {len(self._losses) - 1}"
                raise TrainingFailed(f"the loss was {at}: lower learner.learning_rate")
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._experts.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()

    def _expert(self, target: Target) -> int:
        """The expert that a target goes through this time.

        The router will err, so some lessons go through a neighbour's expert: the shared one has to learn to overrule
        it. A general prompt may come to any of them and has to stay as it is.
        """
        if target.expert == SHARED:
            return self._rng.randrange(self._count)
        is_misrouted = target.others and self._rng.random() < MISROUTED
        return self._rng.choice(target.others) if is_misrouted else target.expert


class _Draw:
    """Batches: lessons evenly over facts, then general prompts."""

    def __init__(
        self, lessons: Sequence[Target], rehearsal: Sequence[Target], settings: LearnerSettings, turn: int = 0
    ) -> None:
        self._by_fact: dict[str, list[Target]] = {}
        for target in lessons:
            self._by_fact.setdefault(target.fact, []).append(target)
        self._rehearsal = list(rehearsal)
        self._settings = settings
        self._rng = random.Random(f"{settings.seed} {turn}")
        self._queue: list[str] = []

    def lessons(self, done: float = 0.0) -> list[Target]:
        """A step's lessons, when a share of the steps is done; a fact comes again when every other has had its turn."""
        facts = [self._next_fact() for _ in range(min(self._settings.lessons_a_step, len(self._by_fact)))]
        return [self._rng.choice(self._due(fact, done)) for fact in facts]

    def rehearsal(self) -> list[Target]:
        """A step's general prompts."""
        return self._rng.sample(self._rehearsal, min(self._settings.general_a_step, len(self._rehearsal)))

    def _next_fact(self) -> str:
        if not self._queue:
            self._queue = self._rng.sample(list(self._by_fact), len(self._by_fact))
        return self._queue.pop()

    def _due(self, fact: str, done: float) -> list[Target]:
        found = self._by_fact[fact]
        return [target for target in found if target.since <= done] or found


def _loss(logits: Tensor, batch: Sequence[Target], lessons: int) -> Tensor:
    """The lessons' weighted mean plus the rehearsal's: long general answers must not drown short new ones."""
    per_token = [
        token_cross_entropy(part, torch.tensor(target.answer))
        if target.teacher is None
        else token_kl(part, target.teacher.float())
        for part, target in zip(torch.split(logits, [len(t.answer) for t in batch]), batch, strict=True)
    ]
    weights = [torch.full((len(target.answer),), target.weight) for target in batch]
    parts = (slice(0, lessons), slice(lessons, None))
    return torch.stack(
        [weighted_mean(torch.cat(per_token[part]), torch.cat(weights[part])) for part in parts if per_token[part]]
    ).sum()
