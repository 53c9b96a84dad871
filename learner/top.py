"""The part of the model that an update changes: the layers from the first edited one upwards.

Everything below is frozen and sees the same tokens at every step, so it runs once a sequence and is kept.
Sequences are padded on the right, where causal attention needs no mask: a token never looks at what follows.

Shape legend: B sequences, T tokens, D hidden, V vocabulary, N answer tokens of a batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learner.targets import Target
from lmt2.models.compute import compute
from lmt2.models.local import LocalModel

ROWS = 32


class TopLayers:
    """Runs the layers from `first` upwards on kept states of the layers below."""

    def __init__(self, model: LocalModel, first: int) -> None:
        self._net = model.net.model
        self._head = model.net.lm_head
        self._first = first

    @torch.no_grad()
    def states(self, targets: Sequence[Target]) -> list[Tensor]:
        """What enters the first layer above the cut, [T, D] for each target's prompt and answer."""
        kept: list[Tensor] = []
        for start in range(0, len(targets), ROWS):
            rows = [target.prompt + target.answer[:-1] for target in targets[start : start + ROWS]]
            width = max(map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            with compute.background():
                hidden = self._run(self._net.embed_tokens(ids), 0, self._first)
            kept += [hidden[n, : len(row)].clone() for n, row in enumerate(rows)]
        return kept

    def logits(self, states: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Float32 logits [N, V] that predict the answers' tokens, one target after the other."""
        padded = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        hidden = self._net.norm(self._run(padded, self._first, len(self._net.layers)))
        predicting = [
            hidden[row, len(target.prompt) - 1 : len(target.prompt) + len(target.answer) - 1]
            for row, target in enumerate(targets)
        ]
        logits: Tensor = self._head(torch.cat(predicting)).float()
        return logits

    def _run(self, hidden: Tensor, first: int, last: int) -> Tensor:
        positions = torch.arange(hidden.shape[1]).unsqueeze(0)
        rotary = self._net.rotary_emb(hidden, positions)
        for layer in self._net.layers[first:last]:
            hidden = layer(hidden, position_embeddings=rotary, position_ids=positions)
        return hidden
