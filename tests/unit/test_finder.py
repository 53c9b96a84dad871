"""The finder: what it learns, and that the shipped one is what it says."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmt2.models.assets import MINILM, model_path
from lmt2.models.encoder import Encoder
from lmt2.study.finder import Entry, Group, groups, loss_of, nearest_are_right, some_of, train
from lmt2.study.train import Passage, passages

MILL: Passage = {
    "id": "mill",
    "text": "Ida Brandt runs the mill. It has 12 stones. Ida Brandt lives there.",
    "pairs": [
        {"q": "Who runs the mill?", "a": "Ida Brandt", "kind": "direct"},
        {"q": "How many stones has the mill?", "a": "12", "kind": "direct"},
        {"q": "What has 12 stones?", "a": "the mill", "kind": "reversed"},
        {"q": "Who dug the pond?", "a": "", "kind": "direct"},
        {"q": "Who owns it?", "a": "Tom", "kind": "direct"},
    ],
}


def test_a_fact_is_an_answer_with_a_sentence_that_states_it_and_a_subject_goes_with_all() -> None:
    (group,) = groups([MILL])
    ida, stones, lives = "Ida Brandt runs the mill.", "It has 12 stones.", "Ida Brandt lives there."
    assert group.facts == [
        Entry(f"Ida Brandt: {ida}", "ida brandt"),
        Entry(f"Ida Brandt: {lives}", "ida brandt"),
        Entry(f"12: {stones}", "12"),
        *(Entry(f"the mill: {sentence}", "the mill") for sentence in (ida, stones, lives)),
    ]
    assert [question.text for question in group.questions] == [pair["q"] for pair in MILL["pairs"][:3]], (
        "a question that the passage doesn't answer is left out"
    )


def test_passages_with_nothing_to_tell_apart_are_left_out() -> None:
    assert (
        groups(
            [{"id": "stones", "text": "It has 12 stones.", "pairs": [{"q": "How many?", "a": "12", "kind": "direct"}]}]
        )
        == []
    )


def test_every_question_of_a_step_has_a_fact_that_answers_it() -> None:
    group = Group([Entry(f"s{n}", f"a{n % 50}") for n in range(200)], [Entry(f"q{n}", f"a{n}") for n in range(50)])
    some = some_of(group, random.Random(0))
    assert len(some.questions) <= 16
    assert len(some.facts) <= 48
    assert {question.answer for question in some.questions} <= {fact.answer for fact in some.facts}


def test_the_loss_is_small_where_answers_are_nearest_and_large_where_others_are() -> None:
    group = Group([Entry("s", "a"), Entry("t", "b"), Entry("u", "a")], [Entry("q", "a"), Entry("r", "b")])
    facts, questions = torch.eye(3), torch.eye(3)[:2]
    assert loss_of(questions, facts, group) < 1e-6
    assert loss_of(questions.flip(0), facts, group) > 10
    assert loss_of(torch.eye(3)[[2, 1]], facts, group) < 1e-6, "any fact with the answer will do"


class Words:
    """Embeds by the first letter."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(26)[[ord(text[0]) - ord("a") for text in texts]]

    by_fact = __call__


def test_a_question_counts_as_right_if_the_nearest_fact_has_its_answer() -> None:
    facts = [Entry("a", "one"), Entry("b", "two"), Entry("c", "three")]
    group = Group(facts, [Entry("a?", "one"), Entry("b?", "two"), Entry("b?", "three")])
    assert nearest_are_right(Words(), [group]) == (2, 3)


@pytest.mark.model
def test_training_writes_an_adapter_that_finds_more_than_none(tmp_path: Path) -> None:
    """A few passages, learnt by heart."""
    folder, taught = model_path(MINILM.name), groups(passages(held_out=False)[:3])
    train(taught, folder, tmp_path / "finder", epochs=8)
    plain, asked = nearest_are_right(Encoder(folder, tmp_path / "none"), taught)
    found, _ = nearest_are_right(Encoder(folder, tmp_path / "finder"), taught)
    assert found > plain + 0.2 * asked


@pytest.mark.model
def test_the_shipped_finder_finds_most_facts_of_passages_that_were_kept_apart() -> None:
    apart = groups(passages(held_out=True))[:10]
    right, asked = nearest_are_right(Encoder(model_path(MINILM.name)), apart)
    assert right > 0.7 * asked


@pytest.mark.model
def test_an_encoder_of_another_name_has_no_finder(tmp_path: Path) -> None:
    (tmp_path / "another").symlink_to(model_path(MINILM.name))
    encoder = Encoder(tmp_path / "another")
    assert torch.equal(encoder.by_fact(["Who runs the mill?"]), encoder(["Who runs the mill?"]))
