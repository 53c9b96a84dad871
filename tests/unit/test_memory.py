"""Side memories: routed rows, shards as files, the router, and versions as sets of shards."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lmt2.artifacts import ArtifactStore
from lmt2.errors import ArtifactError
from lmt2.models.base import Conversation, Sampling
from lmt2.models.local import ROWS, LocalModel
from lmt2.study.prompts import user
from memory.routing import Route, Router, threshold_for
from memory.shards import SHARED, Delta, Keys, from_tensors
from memory.versioned import Shelf, VersionedModel, base_fingerprint, question_of
from memory.versions import Manifest, ShardEntry, untouched
from memory.wise import RoutedRows
from tests.support.tiny import HIDDEN, INNER, WordEncoder, calling, tiny_model, tiny_shard, tiny_version

CAPITAL, RIVER, OTHER = "what is the capital of arstotzka", "which river crosses ooze", "an unrelated thing"
ENCODER = WordEncoder()
KEYS = torch.eye(4, ENCODER.width)


def tiny_delta(layers: Sequence[int] = (1, 3), rank: int = 2, seed: int = 0) -> Delta:
    return tiny_shard(KEYS, layers, rank, seed).through(0)


@torch.no_grad()
def logits(model: LocalModel, ids: Tensor, deltas: Sequence[Delta | None]) -> Tensor:
    with model.use(RoutedRows(deltas)):
        found: Tensor = model.net(ids).logits
    return found


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 49152, (5, 13), generator=torch.Generator().manual_seed(0))


def test_a_row_without_a_shard_is_the_base_model_to_the_bit(tiny: LocalModel, ids: Tensor) -> None:
    with torch.no_grad():
        base = tiny.net(ids).logits
    mixed = logits(tiny, ids, [None, tiny_delta(seed=1), None, tiny_delta(seed=2), None])
    assert torch.equal(mixed[[0, 2, 4]], base[[0, 2, 4]])
    assert not torch.allclose(mixed[1], base[1], atol=0.1)
    assert not torch.allclose(mixed[3], base[3], atol=0.1)


def test_a_mixed_batch_computes_what_its_rows_compute_alone(tiny: LocalModel, ids: Tensor) -> None:
    """Shards of other layers and another rank too: the learner's settings may change between two documents."""
    one, other = tiny_delta(layers=(1, 3), rank=2, seed=1), tiny_delta(layers=(0, 3), rank=5, seed=2)
    rows = [one, None, other, one, other]
    alone = torch.cat([logits(tiny, ids[n : n + 1], [delta]) for n, delta in enumerate(rows)])
    torch.testing.assert_close(logits(tiny, ids, rows), alone, rtol=0, atol=2e-6 * float(alone.abs().max()))


def test_a_routed_row_adds_the_low_rank_product() -> None:
    delta = tiny_delta(layers=(2,), rank=3, seed=4)
    activations, output = torch.randn(2, 7, INNER), torch.randn(2, 7, HIDDEN)
    added = RoutedRows([delta, None]).add(2, activations, output)
    torch.testing.assert_close(added[0], output[0] + activations[0] @ (delta.b[2] @ delta.a[2]).T, rtol=1e-4, atol=1e-3)
    assert RoutedRows([delta, None]).add(1, activations, output) is output


def test_a_shard_survives_the_artifact_store(tmp_path: Path) -> None:
    store, shard = ArtifactStore(str(tmp_path)), tiny_shard(KEYS)
    shard = replace(shard, keys=replace(shard.keys, answers=("søren kjær",)))
    found = from_tensors(store.get(store.put(shard.tensors(), {})), INNER, HIDDEN)
    assert all(torch.equal(found.a[n], shard.a[n]) and torch.equal(found.b[n], shard.b[n]) for n in (1, 3))
    assert all(torch.equal(found.keys.tensors()[name], key) for name, key in shard.keys.tensors().items())
    assert found.keys.answers == shard.keys.answers
    assert torch.equal(found.ranks, shard.ranks)


def test_the_same_shard_has_the_same_name_however_often_it_is_kept(tmp_path: Path) -> None:
    store, tensors = ArtifactStore(str(tmp_path)), tiny_shard(KEYS).tensors()
    names = {store.put(tensors, {"update": "u-1", "base": "b", "parent": "v"}) for _ in range(20)}
    assert len(names) == 1
    assert store.put(tensors, {"update": "u-2", "base": "b", "parent": "v"}) not in names


def damaged(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    tensors = tiny_shard(KEYS, layers=(1,)).tensors() | ({} if tensor is None else {name: tensor})
    if tensor is None:
        del tensors[name]
    return tensors


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("layers.1.b", None, r"lacks.*layers\.1\.b"),
        ("places", None, "lacks.*places"),
        ("ranks", torch.zeros(3, dtype=torch.int32), "made for another"),
        ("ranks", torch.zeros(2), "ranks are no list"),
        ("experts", torch.zeros(3, dtype=torch.int32), "experts are no list of 4"),
        ("experts", torch.full((4,), -2, dtype=torch.int32), "experts are no list of 4"),
        ("layers.one.a", torch.zeros(2, INNER), r"unknown.*layers\.one\.a"),
        ("layers.1.a", torch.zeros(2, INNER + 1), "made for another"),
        ("layers.1.a", torch.zeros(3, INNER), "made for another"),
        ("layers.1.b", torch.zeros(HIDDEN), "made for another"),
        ("layers.1.a", torch.tensor(1.0), "made for another"),
        ("answers", None, "lacks.*answers"),
        ("answers", torch.full((2,), 255, dtype=torch.uint8), "answers are no text"),
        ("answers", torch.zeros(2, 2), "answers are no text"),
        ("places", torch.zeros(4), "places have the shape"),
        ("facts", torch.zeros(4), "facts have the shape"),
        ("layers.1.b", torch.full((HIDDEN, 2), torch.nan), "finite"),
        ("places", torch.full((4, 64), torch.inf), "finite"),
    ],
)
def test_tensors_that_are_no_shard_of_this_model_are_refused(name: str, tensor: Tensor | None, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        from_tensors(damaged(name, tensor), INNER, HIDDEN)


def test_a_question_goes_through_its_expert_and_the_shared_one() -> None:
    shard = replace(tiny_shard(KEYS, rank=5), ranks=torch.tensor([SHARED, 0, 1, 1, 0], dtype=torch.int32))
    for expert, ranks in ((0, [0, 1, 4]), (1, [0, 2, 3]), (SHARED, [0])):
        delta = shard.through(expert)
        assert all(torch.equal(delta.a[n], shard.a[n][ranks]) for n in (1, 3))
        assert all(torch.equal(delta.b[n], shard.b[n][:, ranks]) for n in (1, 3))


def test_the_experts_of_a_shard_are_those_that_facts_call() -> None:
    shard = tiny_shard(KEYS)
    assert replace(shard, keys=calling(KEYS, [1, 2, 0, 1])).experts == [0, 1, 2]
    assert replace(shard, keys=calling(KEYS[:0], [])).experts == [SHARED]


def test_a_question_goes_to_the_nearest_shard_or_to_none() -> None:
    keys = [only(unit(0), unit(10)), only(unit(90)), only(unit(180), unit(170))]
    found = routed(Router(keys, 0.9, torch.empty(0, 0)), unit(12), unit(88), unit(177), unit(45), unit(270))
    assert found == [Route(0, 0), Route(1, 0), Route(2, 0), None, None]
    assert routed(Router([], 0.9, torch.empty(0, 0)), unit(0), unit(1)) == [None, None]


class Angles:
    """Embeds a text as the angles that it consists of: what it is about, and what it asks for."""

    def __init__(self) -> None:
        self.by_fact_asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([unit(float(text.split()[0])) for text in texts])

    def by_fact(self, texts: Sequence[str]) -> Tensor:
        self.by_fact_asked += texts
        return torch.stack([unit(float(text.split()[-1])) for text in texts])


def test_the_fact_that_is_nearest_says_which_expert() -> None:
    facts = Keys(torch.stack([unit(0), unit(40)]), torch.stack([unit(90), unit(120)]), torch.tensor([3, 5]))
    router = Router([only(unit(180)), facts], 0.9, torch.empty(0, 0))
    assert router.route(["180 0", "1 100", "39 110"], Angles()) == [Route(0, 0), Route(1, 3), Route(1, 5)]
    nobody = Router([Keys(torch.stack([unit(0)]), torch.empty(0, 2), torch.empty(0))], 0.9, torch.empty(0, 0))
    assert routed(nobody, unit(0)) == [Route(0, SHARED)], "a shard without facts answers through the shared expert"


def test_a_fact_whose_answer_the_question_says_is_not_what_it_asks_for() -> None:
    facts = torch.stack([unit(90), unit(120)])
    keys = Keys(torch.stack([unit(0)]), facts, torch.tensor([0, 1]), ("412", "ida brandt"))
    router = Router([keys], 0.9, torch.empty(0, 0))
    asked = ["0 which tower has 412 steps 90", "0 how many steps 90", "0 has ida brandt 412 steps 90"]
    assert router.route(asked, Angles()) == [Route(0, 1), Route(0, 0), Route(0, 0)]


def test_only_questions_that_reach_a_shard_are_embedded_by_fact() -> None:
    router, encoder = Router([only(unit(0))], 0.9, torch.empty(0, 0)), Angles()
    assert router.route(["90", "0", "180"], encoder) == [None, Route(0, 0), None]
    assert encoder.by_fact_asked == ["0"]


class Fixed:
    """Embeds text n as embedding n, whatever is asked of it."""

    def __init__(self, embeddings: Tensor) -> None:
        self._embeddings = embeddings

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self._embeddings[[int(text) for text in texts]]

    by_fact = __call__


def routed(router: Router, *asked: Tensor) -> list[Route | None]:
    """Routes where what is asked for and what it is about are one."""
    return router.route([str(number) for number in range(len(asked))], Fixed(torch.stack(asked)))


def only(*embeddings: Tensor) -> Keys:
    """Keys of a shard with a single expert."""
    return calling(torch.stack(embeddings), [0] * len(embeddings))


def unit(degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()])


def test_no_general_question_passes_the_threshold() -> None:
    stream = torch.Generator().manual_seed(3)
    general, *keys = (
        torch.nn.functional.normalize(torch.randn(size, 16, generator=stream), dim=-1) for size in (200, 6, 9)
    )
    shards = [only(*embeddings) for embeddings in keys]
    router = Router(shards, threshold_for(shards, general), general)
    assert routed(router, *general) == [None] * 200
    assert routed(router, *keys[1]) == [Route(1, 0)] * 9


def test_likeness_to_a_general_question_speaks_against_a_shard() -> None:
    keys, general = [only(unit(0))], torch.stack([unit(60)])
    assert routed(Router(keys, 0.5, general), unit(30), unit(-30)) == [None, Route(0, 0)]


def entry(artifact: str, *documents: str) -> ShardEntry:
    return ShardEntry(artifact=artifact, documents=documents, update=f"u-{artifact}")


def test_a_version_is_named_by_its_content() -> None:
    def build() -> Manifest:
        return untouched("base").replace([], entry("a", "doc-1"), 0.6)

    first = build()
    assert first.id == build().id == Manifest.model_validate_json(first.model_dump_json()).id
    assert first.id == "v-e637b87f8fe3", "names of versions in existing ledgers must not change"
    variants = [
        first.model_copy(update={"base": "other"}),
        first.model_copy(update={"threshold": 0.61}),
        first.model_copy(update={"parent": "v-000000000000"}),
        first.replace([], None, 0.6),
        first.replace(["doc-1"], None, 0.6),
    ]
    assert len({first.id, *(variant.id for variant in variants)}) == 6
    with pytest.raises(ValidationError, match="frozen"):
        first.threshold = 0.1  # type: ignore[misc]


def test_replacing_documents_drops_their_shards_and_no_others() -> None:
    parent = Manifest(base="b", threshold=0.5, shards=(entry("a", "1"), entry("b", "2", "3"), entry("c", "4")))
    child = parent.replace(["3", "unheard-of"], entry("d", "2", "3", "5"), 0.7)
    assert [shard.artifact for shard in child.shards] == ["a", "c", "d"]
    assert (child.parent, child.base, child.threshold) == (parent.id, "b", 0.7)
    assert [shard.artifact for shard in parent.shards] == ["a", "b", "c"]


def asked(*questions: str) -> list[Conversation]:
    return [[user(question)] for question in questions]


@pytest.fixture(scope="module")
def version(tiny: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> VersionedModel:
    shards = [tiny_shard(ENCODER([topic]), seed=seed) for topic, seed in ((CAPITAL, 1), (RIVER, 2))]
    return tiny_version(tiny, ArtifactStore(str(tmp_path_factory.mktemp("artifacts"))), shards)


def test_a_version_answers_each_question_through_its_own_shard(tiny: LocalModel, version: VersionedModel) -> None:
    plan, questions = Sampling(max_new_tokens=8), asked(OTHER, CAPITAL, RIVER, CAPITAL)
    answers = version.generate(questions, plan)
    base = tiny.generate(questions, plan)
    assert answers == [version.generate([question], plan)[0] for question in questions]
    assert answers[0] == base[0]
    assert answers[1] == answers[3] != base[1]
    assert answers[2] != base[2]


def test_a_version_scores_answers_through_the_same_shards(tiny: LocalModel, version: VersionedModel) -> None:
    questions, answers = asked(CAPITAL, OTHER), ["the town of Grestin", "nothing"]
    scored, base = version.logprobs(questions, answers), tiny.logprobs(questions, answers)
    assert scored[1] == pytest.approx(base[1], abs=1e-5)
    assert scored[0] != pytest.approx(base[0], abs=0.1)
    with tiny.use(version.side(version.route([CAPITAL, OTHER]))):
        together = tiny.logprobs(questions, answers)
    assert together[0] == pytest.approx(scored[0], abs=1e-4)


def test_sampling_a_long_list_repeats_no_random_stream(tiny: LocalModel, version: VersionedModel) -> None:
    many = asked(*[OTHER] * (ROWS + 3))
    plan = Sampling(max_new_tokens=2, temperature=1.0, seed=7)
    assert version.generate(many, plan) == tiny.generate(many, plan)


def test_a_version_for_another_base_is_refused(tiny: LocalModel, tmp_path: Path) -> None:
    other = base_fingerprint(tiny_model(tmp_path / "other", seed=1))
    store = ArtifactStore(str(tmp_path / "artifacts"))
    assert other != base_fingerprint(tiny.folder)
    with pytest.raises(ArtifactError, match="another base model"):
        VersionedModel(tiny, ENCODER, Shelf(store, tiny), untouched(other))


def test_a_version_whose_shard_is_gone_is_refused(tiny: LocalModel, tmp_path: Path) -> None:
    manifest = Manifest(base=base_fingerprint(tiny.folder), threshold=0.5, shards=(entry("0" * 64, "doc"),))
    with pytest.raises(ArtifactError, match="holds no"):
        VersionedModel(tiny, ENCODER, Shelf(ArtifactStore(str(tmp_path)), tiny), manifest)


def test_a_conversation_is_routed_by_its_latest_question() -> None:
    turns: Conversation = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": OTHER},
        {"role": "assistant", "content": "so it is"},
        {"role": "user", "content": CAPITAL},
        {"role": "assistant", "content": "well"},
    ]
    assert question_of(turns) == CAPITAL
    assert question_of(turns[:1]) == ""
