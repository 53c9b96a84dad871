"""Ensemble KL: teachers mixed by their shares, and only those that are right have one. A tiny model, for speed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learner.losses import token_kl
from learner.master.ensemble import build, mixed
from learner.targets import Target
from lmt2.artifacts import ArtifactStore
from lmt2.models.base import Conversation, TokenIds
from lmt2.models.local import LocalModel
from memory.versioned import VersionedModel
from tests.support.learning import KEEPER, REQUEST, STEPS, Teacher, hand
from tests.support.tiny import WordEncoder, tiny_shard, tiny_version


class Snapshot(VersionedModel):
    """A promoted model that remembers some questions' answers, half-heartedly."""

    def __init__(self, version: VersionedModel, knows: Sequence[str]) -> None:
        vars(self).update(vars(version))
        self._knows = knows

    def answer_logits(self, conversations: Sequence[Conversation], answers: Sequence[TokenIds]) -> Iterator[Tensor]:
        """The answer's tokens two above all others where it is known, else below them."""
        for conversation, answer in zip(conversations, answers, strict=True):
            logits = torch.zeros(len(answer), 49152)
            logits[range(len(answer)), answer] = 2.0 if conversation[-1]["content"] in self._knows else -2.0
            yield logits


@pytest.fixture
def version(tiny: LocalModel, tmp_path: Path) -> VersionedModel:
    return tiny_version(tiny, ArtifactStore(str(tmp_path)), [tiny_shard(WordEncoder()([STEPS]))])


def targets(
    tiny: LocalModel, reader: LocalModel | None, snapshot: VersionedModel | None, share: float = 0.25
) -> dict[str, Target]:
    at_hand = hand(tiny, reader=reader, snapshot_share=share)
    served = replace(at_hand, serve=lambda: snapshot or tiny)
    return {target.asks: target for target in build(REQUEST, served)}


def test_teachers_that_are_right_are_mixed_by_their_shares(
    tiny: LocalModel, tiny_folder: Path, version: VersionedModel
) -> None:
    reader = Teacher(tiny_folder)
    alone = targets(tiny, reader, None)[STEPS].teacher
    found = targets(tiny, reader, Snapshot(version, [STEPS]))[STEPS].teacher
    assert found is not None
    assert alone is not None
    token = targets(tiny, reader, None)[STEPS].answer[0]
    remembered = torch.tensor(2.0).exp() / (torch.tensor(2.0).exp() + 49151)
    expected = 0.75 * alone[0, token].float().exp() + 0.25 * remembered
    assert found[0, token].float().exp().item() == pytest.approx(expected.item(), rel=0.01)


def test_a_snapshot_does_not_vote_on_what_was_superseded(
    tiny: LocalModel, tiny_folder: Path, version: VersionedModel
) -> None:
    reader = Teacher(tiny_folder)
    with_it = targets(tiny, reader, Snapshot(version, [STEPS]))
    without = targets(tiny, reader, None)
    for question in KEEPER:
        assert torch.equal(with_it[question].teacher, without[question].teacher)  # type: ignore[arg-type]
    assert not torch.equal(with_it[STEPS].teacher, without[STEPS].teacher)  # type: ignore[arg-type]


def test_where_the_reader_errs_the_snapshot_is_the_teacher_and_where_both_do_the_answer_is(
    tiny: LocalModel, tiny_folder: Path, version: VersionedModel
) -> None:
    reader = Teacher(tiny_folder)
    reader.wrong = {STEPS, KEEPER[0]}
    found = targets(tiny, reader, Snapshot(version, [STEPS]))
    assert found[STEPS].teacher is not None
    assert found[KEEPER[0]].teacher is None
    assert targets(tiny, None, None)[STEPS].teacher is None


def test_a_real_snapshot_is_asked_through_its_own_shard(tiny: LocalModel, version: VersionedModel) -> None:
    answer = tiny.encode_text("412")
    conversation: Conversation = [{"role": "user", "content": STEPS}]
    (found,) = version.answer_logits([conversation], [answer])
    (base,) = tiny.answer_logits([tiny.encode(conversation)], [answer])
    with tiny.use(version.side(version.route([STEPS]))):
        (expected,) = tiny.answer_logits([tiny.encode(conversation)], [answer])
    assert torch.equal(found, expected)
    assert not torch.allclose(found, base)


def test_the_mixture_has_the_gradient_of_the_weighted_sum() -> None:
    stream = torch.Generator().manual_seed(0)
    voices = [torch.randn(3, 11, generator=stream, dtype=torch.float64).log_softmax(-1) for _ in range(3)]
    shares = [0.5, 0.3, 0.2]
    student = torch.randn(3, 11, generator=stream, dtype=torch.float64, requires_grad=True)
    summed = sum(share * token_kl(student, said).sum() for share, said in zip(shares, voices, strict=True))
    mixture = torch.stack([share * said.exp() for share, said in zip(shares, voices, strict=True)]).sum(0).log()
    assert isinstance(summed, Tensor)
    (expected,) = torch.autograd.grad(summed, student)
    (found,) = torch.autograd.grad(token_kl(student, mixture).sum(), student)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mixed(list(zip(shares, voices, strict=True))).double(), mixture, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]


def test_order_and_scale_of_the_voices_do_not_matter_and_one_voice_is_itself() -> None:
    stream = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 5, generator=stream).log_softmax(-1) for _ in range(2))
    first, second = mixed([(0.2, a), (0.6, b)]), mixed([(3.0, b), (1.0, a)])
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first.exp().sum(-1), torch.ones(2))
    only = mixed([(0.0, a), (0.1, b)])
    assert only is not None
    torch.testing.assert_close(only, b)
    assert mixed([(0.0, a)]) is None
    assert mixed([]) is None
