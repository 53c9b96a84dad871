"""Embeddings: asked for once, and at once where somebody waits."""

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lmt2.models.assets import MINILM, model_path
from lmt2.models.compute import compute
from lmt2.models.encoder import Encoder, Remembering


class Counting:
    """Embeds a text by its length, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return torch.tensor([[float(len(text)), 0.0] for text in texts]).reshape(-1, 2)

    def by_fact(self, texts: Sequence[str]) -> Tensor:
        return self(texts).flip(1)


def test_a_text_is_embedded_once_for_each_purpose() -> None:
    counting = Counting()
    encoder = Remembering(counting)
    assert encoder(["a", "bb", "a"]).tolist() == [[1, 0], [2, 0], [1, 0]]
    assert encoder(["bb", "ccc"]).tolist() == [[2, 0], [3, 0]]
    assert encoder.by_fact(["a"]).tolist() == [[0, 1]]
    assert counting.asked == ["a", "bb", "ccc", "a"]
    assert encoder([]).shape == (0, 2)


@pytest.mark.model
def test_who_waits_for_an_answer_does_not_queue_behind_background_work() -> None:
    encoder, done = Encoder(model_path(MINILM.name)), threading.Event()
    found: list[Tensor] = []

    def embed() -> None:
        found.append(encoder.at_once().by_fact(["Who runs the mill?"]))
        done.set()

    with compute.background():
        thread = threading.Thread(target=embed)
        thread.start()
        assert done.wait(60)
    thread.join()
    assert torch.equal(found[0], encoder.by_fact(["Who runs the mill?"]))
