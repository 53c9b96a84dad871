"""A shard: one low-rank delta on the down-projections of a few MLPs, with the keys that route questions to it.

WISE (arXiv 2405.14768, eq. 11 of the LMT² paper) copies whole down-projections into a side memory. Here the
side memory is W' − W = B A of rank r: a few hundred kilobytes, droppable without a trace, and in the shape
that a plain LoRA server takes.

Shape legend: R rank, F the MLP's inner width, D hidden, N keys, E embedding.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmt2.errors import ArtifactError

LAYER = re.compile(r"layers\.(\d+)\.[ab]$")


@dataclass(frozen=True)
class Shard:
    """Deltas by layer, and unit-length embeddings of the questions and sentences it was made from."""

    a: Mapping[int, Tensor]  # [R, F] each
    b: Mapping[int, Tensor]  # [D, R] each
    keys: Tensor  # [N, E]

    def tensors(self) -> dict[str, Tensor]:
        """The shard as named tensors, for the artifact store."""
        named = {f"layers.{layer}.a": tensor.contiguous() for layer, tensor in self.a.items()}
        named |= {f"layers.{layer}.b": tensor.contiguous() for layer, tensor in self.b.items()}
        return named | {"keys": self.keys.contiguous()}


def from_tensors(tensors: Mapping[str, Tensor], inner: int, hidden: int) -> Shard:
    """A shard from named tensors.

    Raises:
        ArtifactError: a name or shape doesn't fit the base model, or a value isn't finite.
    """
    layers = sorted({int(found[1]) for name in tensors if (found := LAYER.match(name))})
    expected = {"keys", *(f"layers.{n}.{factor}" for n in layers for factor in "ab")}
    if odd := expected ^ set(tensors):
        raise ArtifactError(f"the shard lacks tensors or has unknown ones: {', '.join(sorted(odd))}")
    shard = Shard(
        a={n: tensors[f"layers.{n}.a"] for n in layers},
        b={n: tensors[f"layers.{n}.b"] for n in layers},
        keys=tensors["keys"],
    )
    if shard.keys.ndim != 2:
        raise ArtifactError(f"the shard's keys have the shape {tuple(shard.keys.shape)}, expected [keys, embedding]")
    for n in layers:
        rank = shard.a[n].shape[:1]
        if shard.a[n].shape != (*rank, inner) or shard.b[n].shape != (hidden, *rank):
            raise ArtifactError(f"the shard's delta on layer {n} doesn't fit the base model: was it made for another?")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ArtifactError("the shard holds values that aren't finite")
    return shard
