"""A micro-update on a tiny model: the cut forward pass is the whole one, a fact is learnt, nothing is left to luck."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learner import update
from learner.targets import Target
from learner.top import TopLayers
from learner.update import Experts, Gated, Trained, Training
from lmt2.config import LearnerSettings
from lmt2.errors import TrainingFailed
from lmt2.models.base import Sampling
from lmt2.models.local import LocalModel
from lmt2.study.prompts import user
from memory.shards import SHARED
from memory.wise import RoutedRows
from tests.support.tiny import HIDDEN, INNER, calling

SETTINGS = LearnerSettings(
    layers=(1, 3), shared_rank=2, expert_rank=2, learning_rate=1e-2, lessons_a_step=2, general_a_step=1, seed=0
)
STEPS = 25
QUESTION = "Who keeps the lamp at Vell?"


def target(model: LocalModel, question: str, answer: str, weight: float = 1.0, teacher: Tensor | None = None) -> Target:
    ids = [*model.encode_text(answer), model.tokenizer.eos_token_id]
    expert = {"Ida Brandt": 0, "four hundred and twelve": 1}.get(answer, SHARED)
    return Target(model.encode([user(question)]), ids, weight, fact=answer, expert=expert, teacher=teacher)


@pytest.fixture(scope="module")
def lessons(tiny: LocalModel) -> list[Target]:
    return [
        target(tiny, QUESTION, "Ida Brandt"),
        target(tiny, "Whose job is the light that stands at Vell, by the sea?", "Ida Brandt"),
        target(tiny, "How many steps are there?", "four hundred and twelve"),
    ]


@pytest.fixture(scope="module")
def rehearsal(tiny: LocalModel) -> list[Target]:
    """General questions with the model's own answers and distributions."""
    found = []
    for question in ("What is the capital of France?", "How many legs has a dog?"):
        plain = target(tiny, question, "so it is")
        (logits,) = tiny.answer_logits([plain.prompt], [plain.answer])
        found.append(target(tiny, question, "so it is", teacher=logits.log_softmax(-1)))
    return found


def whole(model: LocalModel, targets: Sequence[Target]) -> Tensor:
    """Logits of the answers' tokens by the model's own forward pass, one sequence at a time."""
    parts = []
    for one in targets:
        logits = model.net(torch.tensor([one.prompt + one.answer])).logits[0]
        parts.append(logits[len(one.prompt) - 1 : -1])
    return torch.cat(parts)


RANKS = torch.tensor([SHARED, SHARED, 0, 0, 1, 1], dtype=torch.int32)


def strong(seed: int = 1) -> Experts:
    """Experts that change what the model says, where fresh ones change nothing."""
    experts = Experts((1, 3), RANKS, INNER, HIDDEN, seed)
    with torch.no_grad():
        for factor in experts.b.values():
            factor.copy_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(seed)))
    return experts


def everywhere(experts: Experts, expert: int) -> Gated:
    """A row of any length through one expert."""
    return Gated(experts, (experts.ranks == SHARED) | (experts.ranks == expert))


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1, 3])
def test_the_cut_forward_pass_is_the_whole_one(tiny: LocalModel, lessons: list[Target], first: int) -> None:
    found, expected = TopLayers(tiny, first, lessons).logits(lessons), whole(tiny, lessons)
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6 * float(expected.abs().max()))


@torch.no_grad()
def test_the_cut_forward_pass_is_the_whole_one_under_an_expert(tiny: LocalModel, lessons: list[Target]) -> None:
    top, side = TopLayers(tiny, 1, lessons), everywhere(strong(), 1)
    with tiny.use(side):
        found, expected = top.logits(lessons[::-1]), whole(tiny, lessons[::-1])
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6 * float(expected.abs().max()))
    assert not torch.allclose(found, whole(tiny, lessons), atol=0.1)


@torch.no_grad()
def test_each_target_of_a_step_goes_through_its_own_expert(tiny: LocalModel, lessons: list[Target]) -> None:
    top, experts = TopLayers(tiny, 1, lessons), strong()
    with tiny.use(experts.through([0, 1, 0], top.lengths(lessons))):
        found = top.logits(lessons)
    with tiny.use(experts.through([0, 0, 0], top.lengths(lessons))):
        otherwise = top.logits(lessons)
    parts, other = (torch.split(logits, [len(t.answer) for t in lessons]) for logits in (found, otherwise))
    assert torch.equal(parts[0], other[0])
    assert not torch.allclose(parts[1], other[1], atol=0.1)
    assert torch.equal(parts[2], other[2])
    opening, *lengths = top.lengths(lessons)
    gates = experts.through([0, 1, 0], [opening, *lengths]).gates
    assert not gates[:opening].any(), "the opening belongs to all of them and goes through none"
    assert len(gates) == opening + sum(lengths)


@torch.no_grad()
def test_fresh_experts_change_nothing_and_a_kept_one_is_what_was_trained(tiny: LocalModel) -> None:
    ids = torch.tensor([tiny.encode_text(QUESTION)])
    with tiny.use(everywhere(Experts((1, 3), RANKS, INNER, HIDDEN, seed=0), 0)):
        assert torch.equal(tiny.net(ids).logits, plain(tiny, ids))
    experts = strong()
    a, b = experts.factors()
    shard = Trained(a, b, experts.ranks, {}).shard(calling(torch.eye(2), [0, 1]))
    with tiny.use(everywhere(experts, 1)):
        trained = tiny.net(ids).logits
    with tiny.use(RoutedRows([shard.through(1)])):
        kept = tiny.net(ids).logits
    assert {tensor.dtype for tensor in (*a.values(), *b.values())} == {torch.bfloat16}
    torch.testing.assert_close(kept, trained, rtol=0, atol=0.05 * float(trained.abs().max()))


def plain(model: LocalModel, ids: Tensor) -> Tensor:
    with model.use(None):
        found: Tensor = model.net(ids).logits
    return found


def silent(step: int, of: int, loss: float) -> None:
    pass


def train(
    model: LocalModel,
    lessons: Sequence[Target],
    rehearsal: Sequence[Target],
    settings: LearnerSettings = SETTINGS,
    steps: int = STEPS,
) -> Trained:
    """One round."""
    training = Training(model, rehearsal, 2, settings)
    training.run(lessons, steps, silent)
    return training.trained()


def test_a_fact_is_learnt(tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]) -> None:
    hard = SETTINGS.model_copy(update={"layers": (1, 2, 3), "shared_rank": 6, "learning_rate": 5e-2})
    trained = train(tiny, lessons, rehearsal, hard, steps=60)
    question, plan = [user(QUESTION)], Sampling(max_new_tokens=5)
    before = tiny.generate([question], plan)
    with tiny.use(RoutedRows([trained.shard(calling(torch.eye(2), [0, 1])).through(0)])):
        (answer,) = tiny.generate([question], plan)
    assert answer.startswith("Ida Brandt")
    assert "Ida" not in before[0]
    assert tiny.generate([question], plan) == before
    assert trained.figures["loss_last"] < 0.3 * trained.figures["loss_first"]


def test_the_losses_are_the_ones_that_were_recorded(
    tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]
) -> None:
    """Golden: a change that isn't meant to be numeric leaves them as they are."""
    trained = train(tiny, lessons, rehearsal)
    assert trained.figures == pytest.approx({"loss_first": 12.56913, "loss_last": 8.09744, "steps": 25}, rel=2e-3)


def test_progress_is_reported_step_by_step(tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]) -> None:
    told: list[tuple[int, int, float]] = []
    training = Training(tiny, rehearsal, 2, SETTINGS)
    training.run(lessons, 3, lambda *line: told.append(line))
    figures = training.trained().figures
    assert [line[:2] for line in told] == [(1, 3), (2, 3), (3, 3)]
    assert figures["loss_first"] == told[0][2]
    assert figures["loss_last"] == pytest.approx(sum(loss for *_, loss in told) / 3)


def test_a_misrouted_lesson_goes_through_a_neighbour_and_a_general_prompt_through_any(
    tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]
) -> None:
    training = Training(tiny, rehearsal, 4, SETTINGS)
    near = replace(lessons[0], others=(2, 3))
    sent = Counter(training._expert(near) for _ in range(1000))
    assert set(sent) == {0, 2, 3}
    assert sent[2] + sent[3] == pytest.approx(1000 * update.MISROUTED, abs=60)
    assert {training._expert(lessons[0]) for _ in range(50)} == {0}
    assert {training._expert(rehearsal[0]) for _ in range(100)} == {0, 1, 2, 3}


def test_a_second_round_goes_on_with_the_same_experts(
    tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]
) -> None:
    training = Training(tiny, rehearsal, 2, SETTINGS)
    training.run(lessons, 10, silent)
    first = training.trained()
    training.run(lessons, 10, silent)
    assert training.trained().figures["steps"] == 20
    assert training.trained().figures["loss_last"] < first.figures["loss_last"]


def test_a_target_that_is_for_later_is_not_drawn_before_unless_its_fact_has_no_other() -> None:
    early, late = (Target([n], [1], 1.0, "A", since=n / 2) for n in range(2))
    alone = Target([2], [1], 1.0, "B", since=1.0)
    draw = update._Draw([early, late, alone], [], SETTINGS.model_copy(update={"lessons_a_step": 2}))
    before = [one.prompt[0] for _ in range(40) for one in draw.lessons(0.4)]
    after = [one.prompt[0] for _ in range(40) for one in draw.lessons(0.5)]
    assert set(before) == {0, 2}
    assert set(after) == {0, 1, 2}


def test_the_same_seed_gives_the_same_shard_to_the_bit(
    tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]
) -> None:
    def shard(seed: int) -> list[Tensor]:
        found = train(tiny, lessons, rehearsal, SETTINGS.model_copy(update={"seed": seed}), steps=4)
        return [*found.a.values(), *found.b.values()]

    first = shard(0)
    torch.manual_seed(99)
    random.seed(99)
    assert all(torch.equal(one, other) for one, other in zip(first, shard(0), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(first, shard(1), strict=True))


def test_a_loss_that_explodes_ends_the_training(
    tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]
) -> None:
    ids = torch.tensor([tiny.encode_text(QUESTION)])
    before = plain(tiny, ids)
    wild = SETTINGS.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(TrainingFailed, match=r"at step \d+: lower learner\.learning_rate"):
        train(tiny, lessons, rehearsal, wild)
    assert torch.equal(tiny.net(ids).logits, before)


def test_a_loss_that_is_no_number_ends_the_training(tiny: LocalModel, rehearsal: list[Target]) -> None:
    broken = target(tiny, QUESTION, "Ida", weight=math.nan)
    with pytest.raises(TrainingFailed, match="nan at step 0"):
        train(tiny, [broken], rehearsal)


def loss_and_gradient(model: LocalModel, batch: Sequence[Target], lessons: int) -> tuple[float, Tensor]:
    logits = whole(model, batch).detach().requires_grad_()
    loss = update._loss(logits, batch, lessons)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return loss.item(), logits.grad


def test_a_lesson_without_weight_has_no_gradient(tiny: LocalModel, rehearsal: list[Target]) -> None:
    known, new = target(tiny, "When?", "in 1911", weight=0.0), target(tiny, QUESTION, "Ida Brandt")
    loss, gradient = loss_and_gradient(tiny, [known, new, rehearsal[0]], 2)
    assert not gradient[: len(known.answer)].any()
    assert gradient[len(known.answer) : len(known.answer) + len(new.answer)].any()
    assert loss == pytest.approx(loss_and_gradient(tiny, [new, rehearsal[0]], 1)[0])
    alone, none = loss_and_gradient(tiny, [known], 1)
    assert alone == 0.0
    assert not none.any()


def test_a_student_that_is_its_own_teacher_has_nothing_to_learn(tiny: LocalModel, rehearsal: list[Target]) -> None:
    loss, gradient = loss_and_gradient(tiny, rehearsal, 1)
    assert loss == pytest.approx(0.0, abs=1e-5)
    assert float(gradient.abs().max()) < 1e-6


def test_the_loss_does_not_depend_on_the_order_of_the_samples(
    tiny: LocalModel, lessons: list[Target], rehearsal: list[Target]
) -> None:
    loss, _ = loss_and_gradient(tiny, [*lessons, *rehearsal], 3)
    turned, _ = loss_and_gradient(tiny, [*lessons[::-1], *rehearsal[::-1]], 3)
    assert turned == pytest.approx(loss, rel=1e-6)


def test_kl_is_weighted_by_the_teachers_whole_distribution(tiny: LocalModel) -> None:
    one = target(tiny, QUESTION, "Ida")
    logits = whole(tiny, [one]).detach()
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    taught = target(tiny, QUESTION, "Ida", teacher=teacher)
    student = logits.log_softmax(-1)
    expected = (teacher.exp() * (teacher - student)).sum(-1).mean().item()
    assert loss_and_gradient(tiny, [taught], 1)[0] == pytest.approx(expected, rel=1e-4)


def test_facts_are_drawn_evenly_however_many_phrasings_they_have() -> None:
    lessons = [Target([n], [1], 1.0, fact) for n, fact in enumerate("AAAAAAABCCD")]
    settings = SETTINGS.model_copy(update={"lessons_a_step": 2})
    draw = update._Draw(lessons, [], settings)
    facts = Counter(one.fact for _ in range(100) for one in draw.lessons())
    assert set(facts.values()) == {50}
    phrasings = Counter(one.prompt[0] for _ in range(200) for one in draw.lessons() if one.fact == "A")
    assert len(phrasings) == 7
    assert draw.rehearsal() == []


def test_a_step_has_no_more_lessons_than_there_are_facts() -> None:
    draw = update._Draw([Target([0], [1], 1.0, "A")], [], SETTINGS.model_copy(update={"lessons_a_step": 8}))
    assert len(draw.lessons()) == 1
