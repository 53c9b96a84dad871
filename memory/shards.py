"""A shard: low-rank experts on the down-projections of a few MLPs, with the keys that route questions to them.

WISE (arXiv 2405.14768, eq. 11 of the LMT² paper) copies whole down-projections into a side memory. Here the
side memory is W' − W = B A of a low rank: a few hundred kilobytes, droppable without a trace, and in the shape
that a plain LoRA server takes.

Where WISE has one memory for all facts of a shard, its ranks are divided as in a mixture of experts with a shared
one (DeepSeekMoE, arXiv 2401.06066): each answer has a small expert, which the fact nearest to a question calls,
and the shared expert answers every question. Facts of one document don't disturb each other then, and a phrasing that
was never trained on needs only to be nearer to its fact than to others.

Shape legend: R rank, F the MLP's inner width, D hidden, N places, K facts, E embedding.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmt2.errors import ArtifactError

LAYER = re.compile(r"layers\.(\d+)\.[ab]$")
SHARED = -1  # the expert of ranks that answer every question


@dataclass(frozen=True)
class Delta:
    """What one question goes through: low-rank factors by layer."""

    a: Mapping[int, Tensor]  # [R, F] each
    b: Mapping[int, Tensor]  # [D, R] each


@dataclass(frozen=True)
class Keys:
    """What a shard and its experts are found by.

    Attributes:
        places: unit-length embeddings [N, E] of its titles, sentences and questions: whatever is near is the shard's.
        facts: unit-length embeddings [K, E] of the facts that it teaches, as the encoder tells facts apart.
        experts: whole numbers [K]: whom each fact calls.
        answers: what each expert answers, normalised; none where it isn't known.
    """

    places: Tensor
    facts: Tensor
    experts: Tensor
    answers: tuple[str, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """The keys as named tensors; answers as bytes of UTF-8, one a line."""
        written = torch.tensor(list("\n".join(self.answers).encode()), dtype=torch.uint8)
        return {"places": self.places, "facts": self.facts, "experts": self.experts, "answers": written}


@dataclass(frozen=True)
class Shard:
    """All experts' deltas by layer, which expert each rank belongs to, and the keys."""

    a: Mapping[int, Tensor]  # [R, F] each
    b: Mapping[int, Tensor]  # [D, R] each
    ranks: Tensor  # [R], whole numbers: the expert of each rank, or SHARED
    keys: Keys

    @property
    def experts(self) -> list[int]:
        """The experts that questions come to: those that facts call, or the shared one where there is none."""
        return sorted({*self.keys.experts.tolist()}) or [SHARED]

    def through(self, expert: int) -> Delta:
        """What a question goes through that calls an expert: that one and the shared one."""
        mine = (self.ranks == SHARED) | (self.ranks == expert)
        return Delta({n: a[mine] for n, a in self.a.items()}, {n: b[:, mine] for n, b in self.b.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The shard as named tensors, for the artifact store."""
        named = {f"layers.{layer}.a": tensor.contiguous() for layer, tensor in self.a.items()}
        named |= {f"layers.{layer}.b": tensor.contiguous() for layer, tensor in self.b.items()}
        return named | {"ranks": self.ranks, **{name: key.contiguous() for name, key in self.keys.tensors().items()}}


def keys_of(tensors: Mapping[str, Tensor]) -> Keys:
    """The keys among a shard's tensors, which a router needs alone.

    Raises:
        ArtifactError: the answers are no text.
    """
    try:
        answers = bytes(tensors["answers"].tolist()).decode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"the shard's answers are no text: {error}") from error
    return Keys(tensors["places"], tensors["facts"], tensors["experts"], tuple(answers.split("\n")) if answers else ())


def from_tensors(tensors: Mapping[str, Tensor], inner: int, hidden: int) -> Shard:
    """A shard from named tensors.

    Raises:
        ArtifactError: a name or shape doesn't fit the base model, or a value isn't finite.
    """
    layers = sorted({int(found[1]) for name in tensors if (found := LAYER.match(name))})
    expected = {
        "places",
        "facts",
        "experts",
        "answers",
        "ranks",
        *(f"layers.{n}.{factor}" for n in layers for factor in "ab"),
    }
    if odd := expected ^ set(tensors):
        raise ArtifactError(f"the shard lacks tensors or has unknown ones: {', '.join(sorted(odd))}")
    shard = Shard(
        a={n: tensors[f"layers.{n}.a"] for n in layers},
        b={n: tensors[f"layers.{n}.b"] for n in layers},
        ranks=tensors["ranks"],
        keys=keys_of(tensors),
    )
    _check_numbers("experts", shard.keys.experts, len(shard.keys.facts))
    _check_numbers("ranks", shard.ranks, shard.ranks.numel())
    if shard.keys.answers and not set(shard.keys.experts.tolist()) <= set(range(len(shard.keys.answers))):
        raise ArtifactError(f"the shard has {len(shard.keys.answers)} answers, and an expert without one")
    for name in ("places", "facts"):
        if tensors[name].ndim != 2:
            found_shape = tuple(tensors[name].shape)
            raise ArtifactError(f"the shard's {name} have the shape {found_shape}, expected [keys, embedding]")
    for n in layers:
        if shard.a[n].shape != (len(shard.ranks), inner) or shard.b[n].shape != (hidden, len(shard.ranks)):
            raise ArtifactError(f"the shard's delta on layer {n} doesn't fit the base model: was it made for another?")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ArtifactError("the shard holds values that aren't finite")
    return shard


def _check_numbers(name: str, numbers: Tensor, length: int) -> None:
    if numbers.shape != (length,) or numbers.dtype != torch.int32 or bool((numbers < SHARED).any()):
        raise ArtifactError(f"the shard's {name} are no list of {length} experts' numbers")
