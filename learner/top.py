"""The part of the model that an update changes: the layers from the first edited one upwards.

Everything below is frozen and sees the same tokens at every step, so it runs once a sequence and is kept. A
step's sequences stand one after the other in a single row without any padding, and what all of them begin with
(the chat template's opening) stands there once: each token sees the opening and its own sequence only.

Shape legend: N tokens of a row, D hidden, V vocabulary, L answer tokens of a batch.
"""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from learner.targets import Target
from lmt2.models.compute import compute
from lmt2.models.local import LocalModel, common_prefix
from lmt2.models.shared_prefix import Packing

AT_ONCE = 16  # sequences of a row when the lower layers run


class TopLayers:
    """Runs the layers from `first` upwards on kept states of the layers below.

    Args:
        model: the frozen model, with or without a side memory in use.
        first: the lowest layer that runs at every step.
        targets: all that will ever be asked for; their states are computed here.
    """

    def __init__(self, model: LocalModel, first: int, targets: Sequence[Target]) -> None:
        self._net = model.net.model
        self._head = model.net.lm_head
        self._first = first
        self._opening = common_prefix([target.prompt for target in targets])
        self._kept: dict[int, Tensor] = {}
        self._keep(targets)

    @torch.no_grad()
    def _keep(self, targets: Sequence[Target]) -> None:
        """Compute and keep what enters the first layer above the cut."""
        for start in range(0, len(targets), AT_ONCE):
            batch = targets[start : start + AT_ONCE]
            tails = [self._tail(target) for target in batch]
            ids = torch.tensor([[*batch[0].prompt[: self._opening], *chain.from_iterable(tails)]])
            with compute.background():
                states = self._run(self._net.embed_tokens(ids)[0], list(map(len, tails)), 0, self._first)
            self._opening_states, *rows = torch.split(states, [self._opening, *map(len, tails)])
            self._kept.update({id(target): row.clone() for target, row in zip(batch, rows, strict=True)})

    def lengths(self, targets: Sequence[Target]) -> list[int]:
        """How many tokens of a step's row are the opening's, and how many each target's."""
        return [self._opening, *(len(self._kept[id(target)]) for target in targets)]

    def logits(self, targets: Sequence[Target]) -> Tensor:
        """Float32 logits [L, V] that predict the answers' tokens, one target after the other."""
        states = [self._kept[id(target)] for target in targets]
        packed = torch.cat([self._opening_states, *states])
        hidden = self._net.norm(self._run(packed, list(map(len, states)), self._first, len(self._net.layers)))
        rows = hidden[self._opening :].split(list(map(len, states)))
        predicting = [row[-len(target.answer) :] for row, target in zip(rows, targets, strict=True)]
        logits: Tensor = self._head(torch.cat(predicting)).float()
        return logits

    def _tail(self, target: Target) -> list[int]:
        return target.prompt[self._opening :] + target.answer[:-1]

    def _run(self, packed: Tensor, lengths: Sequence[int], first: int, last: int) -> Tensor:
        """States [N, D] after some layers, of a row that is the opening and sequences of the given lengths."""
        packing = Packing(self._opening, lengths)
        hidden = packed.unsqueeze(0)
        rotary = self._net.rotary_emb(hidden, packing.positions)
        for layer in self._net.layers[first:last]:
            hidden = layer(hidden, position_embeddings=rotary, position_ids=packing.positions, packing=packing)
        return hidden[0]
