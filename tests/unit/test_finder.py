"""The head that tells facts of one document apart: what it learns, and that the shipped one is what it says."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lmt2.models.assets import MINILM, model_path
from lmt2.models.encoder import Encoder
from lmt2.study.finder import Group, groups, loss_of, nearest_are_right, train

FACTS, STYLES = 4, 4


def group(seed: int) -> Group:
    """Questions of a passage whose style is louder than their fact."""
    stream = torch.Generator().manual_seed(seed)
    facts = torch.arange(FACTS).repeat(3)
    styles = torch.randint(STYLES, (len(facts),), generator=stream)
    noise = 0.05 * torch.randn(len(facts), FACTS + STYLES, generator=stream)
    loud = torch.cat([F.one_hot(facts, FACTS).float(), 1.2 * F.one_hot(styles, STYLES).float()], dim=1)
    return Group(F.normalize(loud + noise, dim=-1), facts, torch.ones(len(facts), dtype=torch.bool))


def test_the_head_learns_what_tells_facts_apart_and_keeps_it_for_other_passages() -> None:
    taught, apart = [group(seed) for seed in range(40)], [group(seed) for seed in range(100, 120)]
    head = train(taught * 10, FACTS + STYLES)
    without, asked = nearest_are_right(torch.eye(FACTS + STYLES), apart)
    found, _ = nearest_are_right(head, apart)
    assert without < 0.8 * asked
    assert found > 0.95 * asked


def test_unsound_questions_and_those_without_company_are_not_counted() -> None:
    questions, answers = F.normalize(torch.eye(5) + 0.1, dim=-1), torch.tensor([0, 0, 1, 1, 2])
    whole = Group(questions, answers, torch.ones(5, dtype=torch.bool))
    assert nearest_are_right(torch.eye(5), [whole])[1] == 4
    unsound = Group(questions, answers, torch.tensor([True, True, False, True, True]))
    assert nearest_are_right(torch.eye(5), [unsound])[1] == 3
    assert torch.isfinite(loss_of(torch.eye(5), unsound))


@pytest.mark.model
def test_the_shipped_head_finds_more_facts_than_the_encoder_alone() -> None:
    """On the training lessons' passages that were kept apart."""
    encoder = Encoder(model_path(MINILM.name))
    apart = groups(encoder, held_out=True)[:10]
    projected = [item._replace(questions=encoder.by_fact(item.questions)) for item in apart]
    plain, asked = nearest_are_right(torch.eye(384), apart)
    found, _ = nearest_are_right(torch.eye(384), projected)
    assert found > 1.2 * plain
    assert found > 0.4 * asked


@pytest.mark.model
def test_an_encoder_of_another_name_has_no_head(tmp_path: Path) -> None:
    (tmp_path / "another").symlink_to(model_path(MINILM.name))
    embeddings = torch.eye(384)
    assert torch.equal(Encoder(tmp_path / "another").by_fact(embeddings), embeddings)
