"""One micro-update: targets in, a trained shard out. It knows neither where targets come from nor what is served.

A fresh low-rank delta is trained on the answer tokens of lessons drawn evenly over facts, with general prompts
held to the base model in every step. AdamW, a short warm-up, linear decay to a tenth.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learner.losses import token_cross_entropy, token_kl, weighted_mean
from learner.targets import Target
from learner.top import TopLayers
from lmt2.config import LearnerSettings
from lmt2.errors import TrainingFailed
from lmt2.models.compute import compute
from lmt2.models.local import LocalModel

WARM_UP = 5
EXPLODED = 50.0  # nats a token; chance level is ln V, about 11


class Delta(nn.Module):
    """The shard in training: float32 factors A [R, F] and B [D, R] on each edited layer, B zero at first."""

    def __init__(self, layers: Sequence[int], rank: int, inner: int, hidden: int, seed: int) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(inner)
        self.a = nn.ParameterDict(
            {str(n): nn.Parameter((torch.rand(rank, inner, generator=stream) * 2 - 1) * bound) for n in layers}
        )
        self.b = nn.ParameterDict({str(n): nn.Parameter(torch.zeros(hidden, rank)) for n in layers})

    def add(self, layer: int, activations: Tensor, output: Tensor) -> Tensor:
        """Output [B, T, D] + 2 B A activations [B, T, F]; the factor is LoRA's alpha over rank."""
        if str(layer) not in self.a:
            return output
        low = activations @ self.a[str(layer)].to(activations.dtype).T
        changed: Tensor = output + 2 * (low @ self.b[str(layer)].to(activations.dtype).T)
        return changed

    def factors(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """A and B by layer as they are kept: the factor folded into B, bfloat16."""
        return (
            {int(n): a.detach().bfloat16() for n, a in self.a.items()},
            {int(n): (2 * b.detach()).bfloat16() for n, b in self.b.items()},
        )


@dataclass(frozen=True)
class Trained:
    """A trained delta and what the training was like."""

    a: Mapping[int, Tensor]
    b: Mapping[int, Tensor]
    figures: Mapping[str, float]


def train(
    model: LocalModel,
    lessons: Sequence[Target],
    rehearsal: Sequence[Target],
    settings: LearnerSettings,
    report: Callable[[int, float], None],
) -> Trained:
    """Train one shard; `report` is told the step and the loss as it goes.

    Raises:
        TrainingFailed: the loss became NaN or exploded; nothing is returned.
    """
    config = model.net.config
    delta = Delta(settings.layers, settings.rank, config.intermediate_size, config.hidden_size, settings.seed)
    top = TopLayers(model, min(settings.layers), [*lessons, *rehearsal])
    optimizer = torch.optim.AdamW(delta.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / WARM_UP) * (1 - 0.9 * s / settings.steps)
    )
    draw = _Draw(lessons, rehearsal, settings)
    losses: list[float] = []
    for step in range(settings.steps):
        new, general = draw.lessons(), draw.rehearsal()
        batch = new + general
        with compute.background(), model.use(delta):
            loss = _loss(top.logits(batch), batch, len(new))
            losses.append(loss.item())
            if not math.isfinite(losses[-1]) or losses[-1] > EXPLODED:
                raise TrainingFailed(f"the loss was {losses[-1]} at step {step}: lower learner.learning_rate")
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(delta.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        report(step + 1, losses[-1])
    a, b = delta.factors()
    return Trained(a, b, {"loss_first": losses[0], "loss_last": sum(losses[-10:]) / len(losses[-10:])})


class _Draw:
    """Batches: lessons evenly over facts, then general prompts."""

    def __init__(self, lessons: Sequence[Target], rehearsal: Sequence[Target], settings: LearnerSettings) -> None:
        self._by_fact: dict[str, list[Target]] = {}
        for target in lessons:
            self._by_fact.setdefault(target.fact, []).append(target)
        self._rehearsal = list(rehearsal)
        self._settings = settings
        self._rng = random.Random(settings.seed)
        self._queue: list[str] = []

    def lessons(self) -> list[Target]:
        """A step's lessons; a fact comes again when every other has had its turn."""
        facts = [self._next_fact() for _ in range(min(self._settings.lessons_a_step, len(self._by_fact)))]
        return [self._rng.choice(self._by_fact[fact]) for fact in facts]

    def rehearsal(self) -> list[Target]:
        """A step's general prompts."""
        return self._rng.sample(self._rehearsal, min(self._settings.general_a_step, len(self._rehearsal)))

    def _next_fact(self) -> str:
        if not self._queue:
            self._queue = self._rng.sample(list(self._by_fact), len(self._by_fact))
        return self._queue.pop()


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
