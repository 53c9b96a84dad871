"""The local model: a batch, a prefix or a left pad never changes what a conversation alone would get."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmt2.errors import ModelError
from lmt2.models import local
from lmt2.models.base import Conversation, Sampling
from lmt2.models.decoding import Sampler
from lmt2.models.local import ROWS, LocalModel
from lmt2.study.prompts import user

GREEDY = Sampling(max_new_tokens=8)
PASSAGE = "The harbour of Vell was dredged in 1911. Its keeper was Ida Brandt. " * 3


def asked(*questions: str) -> list[Conversation]:
    return [[user(question)] for question in questions]


def one_by_one(model: LocalModel, tasks: Sequence[Conversation], plan: Sampling) -> list[str]:
    return [model.generate([task], plan)[0] for task in tasks]


def test_a_shared_prefix_changes_no_answer(tiny: LocalModel) -> None:
    tasks = asked(f"{PASSAGE}Who kept it?", f"{PASSAGE}When was it dredged, and for what reason?", f"{PASSAGE}Why?")
    assert tiny.generate(tasks, GREEDY) == one_by_one(tiny, tasks, GREEDY)


def test_prompts_of_mixed_lengths_change_no_answer(tiny: LocalModel) -> None:
    tasks = asked("Why?", PASSAGE, "Who keeps the harbour of Vell, and since when?", "Why?")
    assert tiny.generate(tasks, GREEDY) == one_by_one(tiny, tasks, GREEDY)


def test_one_prompt_may_be_the_beginning_of_another(tiny: LocalModel) -> None:
    prompts = [tiny.encode_text("the harbour"), tiny.encode_text("the harbour of Vell was"), tiny.encode_text("the")]

    def tokens(*rows: int) -> list[list[int | None]]:
        steps = tiny.stream([prompts[row] for row in rows], [GREEDY] * len(rows))
        return [list(row) for row in zip(*steps, strict=True)]

    assert tokens(0, 1, 2) == tokens(0) + tokens(1) + tokens(2)


def test_more_conversations_than_a_batch_holds(tiny: LocalModel) -> None:
    tasks = asked(*(f"What is {n} and {n}?" for n in range(ROWS + 2)))
    answers = tiny.generate(tasks, Sampling(max_new_tokens=2))
    assert len(answers) == len(tasks)
    assert answers[-2:] == tiny.generate(tasks[-2:], Sampling(max_new_tokens=2))
    assert tiny.generate([], GREEDY) == []


def test_sampling_repeats_with_its_seed_whatever_the_other_rows_are(tiny: LocalModel) -> None:
    prompts = [tiny.encode(task) for task in asked("Who?", PASSAGE, "Where is it?")]
    plans = [Sampling(8, temperature=1.0, top_p=0.95, seed=seed) for seed in (1, 2, 3)]

    def tokens(order: Sequence[int]) -> dict[int, list[int | None]]:
        steps = list(tiny.stream([prompts[n] for n in order], [plans[n] for n in order]))
        return dict(zip(order, map(list, zip(*steps, strict=True)), strict=True))

    together = tokens([0, 1, 2])
    assert together == tokens([0, 1, 2]) == tokens([2, 0, 1])
    assert together == tokens([0]) | tokens([1]) | tokens([2])
    other = list(tiny.stream([prompts[0]], [Sampling(8, temperature=1.0, top_p=0.95, seed=9)]))
    assert together[0] != [row[0] for row in other]


def test_equal_questions_of_one_call_are_sampled_apart(tiny: LocalModel) -> None:
    answers = tiny.generate(asked("Who?") * 4, Sampling(8, temperature=1.5, seed=3))
    assert len(set(answers)) == 4


def drawn(logits: Tensor, plan: Sampling, times: int) -> Tensor:
    plans = [Sampling(1, plan.temperature, plan.top_p, seed) for seed in range(times)]
    return Sampler(plans)(logits.expand(times, -1)).bincount(minlength=len(logits)) / times


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    likely = torch.tensor([0.5, 0.3, 0.15, 0.05])
    whole = drawn(likely.log(), Sampling(temperature=1.0), 4000)
    torch.testing.assert_close(whole, likely, rtol=0, atol=0.03)
    sharp = drawn(likely.log(), Sampling(temperature=0.5), 4000)
    torch.testing.assert_close(sharp, likely**2 / (likely**2).sum(), rtol=0, atol=0.03)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    likely = torch.tensor([0.05, 0.5, 0.15, 0.3])
    nucleus = drawn(likely.log(), Sampling(temperature=1.0, top_p=0.7), 4000)
    torch.testing.assert_close(nucleus, torch.tensor([0.0, 0.625, 0.0, 0.375]), rtol=0, atol=0.03)
    assert drawn(likely.log(), Sampling(temperature=1.0, top_p=0.0), 50)[1] == 1


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits = torch.tensor([0.0, 0.1, 0.05]).expand(64, -1)
    tokens = Sampler([Sampling(temperature=float(n % 2), seed=n) for n in range(64)])(logits)
    assert tokens[::2].tolist() == [1] * 32
    assert len(set(tokens[1::2].tolist())) == 3


def test_logprobs_are_those_of_a_plain_forward_pass(tiny: LocalModel) -> None:
    tasks = asked(f"{PASSAGE}Who kept it?", f"{PASSAGE}When?", "Why?")
    answers = ["Ida Brandt", "in 1911, or so they say", "no"]
    for task, answer, scored in zip(tasks, answers, tiny.logprobs(tasks, answers), strict=True):
        prompt, target = tiny.encode(task), tiny.encode_text(answer)
        with torch.no_grad():
            plain = tiny.net(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
        expected = [plain[len(prompt) - 1 + n, token].item() for n, token in enumerate(target)]
        assert scored == pytest.approx(expected, abs=1e-4)


def test_an_end_of_turn_ends_its_row_and_is_not_part_of_the_answer(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [tiny.encode(task) for task in asked("Who?", "Where is it?")]
    first, second = (list(row) for row in zip(*tiny.stream(prompts, [GREEDY] * 2), strict=True))
    stop = next(token for token in first if token not in second)
    monkeypatch.setattr(tiny, "stop_ids", {stop})
    steps = list(tiny.stream(prompts, [GREEDY] * 2))
    at = first.index(stop)
    assert [row[0] for row in steps] == first[:at] + [None] * (8 - at)
    assert [row[1] for row in steps] == second


def test_a_row_has_no_more_tokens_than_it_may(tiny: LocalModel) -> None:
    prompts = [tiny.encode(task) for task in asked("Who?", "Where?")]
    steps = list(tiny.stream(prompts, [Sampling(2), Sampling(5)]))
    assert [[token is not None for token in row] for row in zip(*steps, strict=True)] == [
        [True, True, False, False, False],
        [True] * 5,
    ]


def test_the_stop_tokens_are_those_of_the_model_and_the_tokenizer(tiny: LocalModel) -> None:
    assert tiny.tokenizer.eos_token_id in tiny.stop_ids


class Shift:
    """Adds a number to one layer's output."""

    def __init__(self, by: float) -> None:
        self._by = by

    def add(self, layer: int, activations: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002
        return output + self._by if layer == 1 else output


@torch.no_grad()
def test_a_side_memory_is_the_calling_threads_own(tiny: LocalModel) -> None:
    ids = torch.tensor([tiny.encode_text("the harbour of Vell")])
    plain = tiny.net(ids).logits
    seen: list[Tensor] = []
    with tiny.use(Shift(0.5)):
        shifted = tiny.net(ids).logits
        other = threading.Thread(target=lambda: seen.append(tiny.net(ids).logits.detach()))
        other.start()
        other.join(60)
        with tiny.use(None):
            assert torch.equal(tiny.net(ids).logits, plain)
        assert torch.equal(tiny.net(ids).logits, shifted)
    assert torch.equal(seen[0], plain)
    assert not torch.allclose(shifted, plain)
    with pytest.raises(RuntimeError, match="broke"), tiny.use(Shift(0.5)):
        raise RuntimeError("broke")
    assert torch.equal(tiny.net(ids).logits, plain)


def test_a_side_memory_reaches_generation_and_scoring(tiny: LocalModel) -> None:
    tasks = asked(f"{PASSAGE}Who?", f"{PASSAGE}Where?")
    before = tiny.generate(tasks, GREEDY), tiny.logprobs(tasks, ["Ida", "Vell"])
    with tiny.use(Shift(0.7)):
        during = tiny.generate(tasks, GREEDY), tiny.logprobs(tasks, ["Ida", "Vell"])
        assert during[0] == one_by_one(tiny, tasks, GREEDY)
    assert during[0] != before[0]
    assert during[1] != before[1]


@pytest.mark.parametrize(("rows", "length"), [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2]], 1), ([[1], [1, 2]], 0)])
def test_each_prompt_keeps_a_token_after_the_shared_prefix(rows: list[list[int]], length: int) -> None:
    assert local.common_prefix(rows) == length


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=tmp_path.name):
        LocalModel(tmp_path)
