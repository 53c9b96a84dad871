"""The embedded engine: anything shares its steps, swaps between them, and requests that go away or are too many."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lmt2.artifacts import ArtifactStore
from lmt2.errors import ServingError
from lmt2.models.base import Conversation, Sampling
from lmt2.models.local import LocalModel
from memory.versioned import VersionedModel
from serving.backend import BASE, Ask, Delivery, Piece, QueueFull, RequestRefused
from serving.engine import EmbeddedEngine
from serving.rows import Row
from tests.support.tiny import WordEncoder, tiny_model, tiny_shard, tiny_version

CAPITAL, RIVER = "what is the capital of arstotzka", "which river crosses the valley of ooze"
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return LocalModel(tiny_model(tmp_path_factory.mktemp("tiny")), "float32")


@pytest.fixture(scope="module")
def version(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> VersionedModel:
    """Two shards: one about the capital, one about the river."""
    return make_version(model, tmp_path_factory.mktemp("artifacts"), [(CAPITAL, 1), (RIVER, 2)])


def make_version(model: LocalModel, folder: Path, topics: Sequence[tuple[str, int]]) -> VersionedModel:
    encoder = WordEncoder()
    shards = [tiny_shard(encoder([topic]), seed=seed) for topic, seed in topics]
    return tiny_version(model, ArtifactStore(str(folder)), shards)


@pytest.fixture
def engine(model: LocalModel) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(model, max_batch=8, max_queue=16)
    yield engine
    engine.stop()


async def read(delivery: Delivery) -> list[Piece]:
    return [piece async for piece in delivery]


def answer(engine: EmbeddedEngine, *asks: Ask) -> list[list[Piece]]:
    """The pieces of prompts that are asked at once."""

    async def run() -> list[list[Piece]]:
        return await asyncio.gather(*(read(delivery) for ask in asks for delivery in engine.submit([ask])))

    return asyncio.run(run())


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_mixed_batch_answers_as_each_request_would_be_answered_alone(
    engine: EmbeddedEngine, version: VersionedModel
) -> None:
    engine.swap(version)
    asks = [
        Ask(CAPITAL, GREEDY),
        Ask(RIVER, GREEDY),
        Ask(CAPITAL, GREEDY, is_routed=False),
        Ask("an unrelated thing", GREEDY),
        Ask([{"role": "user", "content": CAPITAL}], Sampling(7, temperature=0.3, top_p=0.9, seed=5)),
        Ask("short", Sampling(3)),
    ]
    together = answer(engine, *asks)
    alone = [answer(engine, ask)[0] for ask in asks]
    assert [text(pieces) for pieces in together] == [text(pieces) for pieces in alone]
    assert [pieces[-1].completion_tokens for pieces in together] == [12, 12, 12, 12, 7, 3]
    assert all(pieces[-1].finish_reason == "length" for pieces in together)


def test_shards_change_routed_answers_and_no_others(engine: EmbeddedEngine, version: VersionedModel) -> None:
    questions = [Ask(CAPITAL, GREEDY), Ask(RIVER, GREEDY), Ask("an unrelated thing", GREEDY)]
    untouched = [Ask(ask.prompt, GREEDY, is_routed=False) for ask in questions]
    before = answer(engine, *questions)
    engine.swap(version)
    after = answer(engine, *questions, *untouched)
    assert [text(pieces) for pieces in after[3:]] == [text(pieces) for pieces in before]
    assert text(after[0]) != text(before[0])
    assert text(after[1]) != text(before[1])
    assert text(after[2]) == text(before[2])
    assert [pieces[0].version for pieces in after] == [version.manifest.id] * 3 + [BASE] * 3


def test_a_streamed_answer_is_what_generate_gives(engine: EmbeddedEngine, model: LocalModel) -> None:
    conversation: Conversation = [{"role": "user", "content": "hello"}]
    pieces = answer(engine, Ask(conversation, GREEDY))[0]
    assert len(pieces) > 3
    assert text(pieces).strip() == model.generate([conversation], GREEDY)[0]


def test_a_stop_string_ends_its_row_alone(engine: EmbeddedEngine) -> None:
    whole = text(answer(engine, Ask("hello", GREEDY))[0])
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    stopped, other = answer(engine, Ask("hello", GREEDY, stop=(stop,)), Ask("hello", GREEDY))
    assert text(stopped) == whole[: whole.index(stop)]
    assert stopped[-1].finish_reason == "stop"
    assert text(other) == whole


def test_the_end_of_turn_token_ends_an_answer(
    engine: EmbeddedEngine, model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [row[0] for row in model.stream([model.encode_text("hello")], [GREEDY])]
    end = tokens.index(tokens[5])
    monkeypatch.setattr(model, "stop_ids", {tokens[5]})
    pieces = answer(engine, Ask("hello", GREEDY))[0]
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].completion_tokens == end
    assert text(pieces) == model.decode([token for token in tokens[:end] if token is not None])


def test_swaps_under_load_fail_nothing_and_every_answer_is_one_versions(
    engine: EmbeddedEngine, model: LocalModel, tmp_path: Path
) -> None:
    first = make_version(model, tmp_path, [(CAPITAL, 1)])
    second = make_version(model, tmp_path, [(CAPITAL, 2)])
    expected = {}
    for candidate in (None, first, second):
        engine.swap(candidate)
        pieces = answer(engine, Ask(CAPITAL, GREEDY))[0]
        expected[pieces[0].version] = text(pieces)
    assert len(set(expected.values())) == 3

    seen: list[str] = []

    async def client() -> None:
        while len(seen) < 40 or len(set(seen)) < 3:
            pieces = await read(engine.submit([Ask(CAPITAL, GREEDY)])[0])
            (name,) = {piece.version for piece in pieces}
            assert text(pieces) == expected[name]
            seen.append(name)

    async def run() -> None:
        clients = [asyncio.create_task(client()) for _ in range(6)]
        turns = 0
        async with asyncio.timeout(60):
            while not all(task.done() for task in clients):
                engine.swap([first, second, None][turns % 3])
                turns += 1
                await asyncio.sleep(0.02)
        await asyncio.gather(*clients)

    asyncio.run(run())
    assert set(seen) == set(expected)


class Gate:
    """Holds the engine before it takes requests in until told to go on."""

    def __init__(self, engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_reached, self.go_on = threading.Event(), threading.Event()
        self.admitted: list[int] = []
        go = engine._rows.admit

        def held(rows: Sequence[Row], version: VersionedModel | None) -> None:
            self.admitted.append(len(rows))
            self.is_reached.set()
            assert self.go_on.wait(10)
            go(rows, version)

        monkeypatch.setattr(engine._rows, "admit", held)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_who_comes_while_others_are_answered_joins_them_and_says_the_same(engine: EmbeddedEngine) -> None:
    alone = text(answer(engine, Ask("short", GREEDY))[0])

    async def run() -> tuple[int, list[str]]:
        long = engine.submit([Ask("hello", Sampling(max_new_tokens=480))])[0]
        pieces = aiter(long)
        await anext(pieces)
        short = [await read(engine.submit([Ask("short", GREEDY)])[0]) for _ in range(3)]
        said = [piece async for piece in pieces]
        return said[-1].completion_tokens, [text(one) for one in short]

    tokens, short = asyncio.run(asyncio.wait_for(run(), 60))
    assert (tokens, short) == (480, [alone] * 3)


def test_a_short_answer_does_not_wait_for_a_long_one(engine: EmbeddedEngine) -> None:
    async def run() -> int:
        long = engine.submit([Ask("hello", Sampling(max_new_tokens=480))])[0]
        await anext(aiter(long))
        await read(engine.submit([Ask("short", Sampling(3))])[0])
        return long._queue.qsize()  # what the long one has said meanwhile

    assert asyncio.run(run()) < 100


def test_no_more_are_answered_at_once_than_may_be(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine, monkeypatch)

    async def run() -> None:
        first = engine.submit([Ask("one", GREEDY)])
        await until(gate.is_reached.is_set)
        rest = [engine.submit([Ask(f"number {n}", GREEDY)]) for n in range(10)]
        gate.go_on.set()
        for (delivery,) in [first, *rest]:
            await read(delivery)

    asyncio.run(run())
    assert gate.admitted[:2] == [1, 7]
    assert sum(gate.admitted) == 11


def test_a_full_queue_refuses_and_recovers(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine, monkeypatch)

    async def run() -> None:
        running = engine.submit([Ask("one", GREEDY)])[0]
        await until(gate.is_reached.is_set)
        waiting = [engine.submit([Ask("one", GREEDY)])[0] for _ in range(16)]
        with pytest.raises(QueueFull, match="16 requests are waiting"):
            engine.submit([Ask("one too many", GREEDY)])
        waiting.pop().cancel()  # its place is free again
        waiting += engine.submit([Ask("just fits", GREEDY)])
        gate.go_on.set()
        for delivery in [running, *waiting]:
            assert (await read(delivery))[-1].finish_reason == "length"

    asyncio.run(run())


def test_a_cancelled_request_is_not_decoded_for(engine: EmbeddedEngine, model: LocalModel) -> None:
    long = Sampling(max_new_tokens=480)

    async def run() -> int:
        delivery = engine.submit([Ask("hello", long)])[0]
        pieces = aiter(delivery)
        await anext(pieces)
        delivery.cancel()
        await read(engine.submit([Ask("next", Sampling(1))])[0])  # taken in once the first one is dropped
        return delivery._queue.qsize()

    assert asyncio.run(run()) < 400


def test_an_error_in_a_batch_fails_its_requests_only(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("serving.rows.Batch", None)
        with pytest.raises(ServingError, match="the answer failed: TypeError"):
            answer(engine, Ask("hello", GREEDY))
    assert answer(engine, Ask("hello", GREEDY))[0][-1].finish_reason == "length"


def test_stopping_finishes_what_runs_and_fails_what_waits(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EmbeddedEngine(model, max_batch=8, max_queue=16)
    gate = Gate(engine, monkeypatch)

    async def run() -> None:
        running = engine.submit([Ask("one", GREEDY)])[0]
        await until(gate.is_reached.is_set)
        waiting = engine.submit([Ask("two", GREEDY)])[0]
        closing = asyncio.create_task(engine.close())
        await until(lambda: engine._is_closing)
        gate.go_on.set()
        await closing
        assert (await read(running))[-1].finish_reason == "length"
        with pytest.raises(ServingError, match="shut down before"):
            await read(waiting)
        with pytest.raises(ServingError, match="shutting down"):
            engine.submit([Ask("three", GREEDY)])

    asyncio.run(run())


def test_prompts_without_room_for_an_answer_are_refused(engine: EmbeddedEngine) -> None:
    async def run() -> None:
        with pytest.raises(RequestRefused, match="context 512") as refusal:
            engine.submit([Ask("word " * 600, GREEDY)])
        assert refusal.value.code == "context_length_exceeded"
        with pytest.raises(RequestRefused, match="at most 8"):
            engine.submit([Ask("one", GREEDY)] * 9)
        with pytest.raises(RequestRefused, match="empty"):
            engine.submit([Ask("", GREEDY)])
        pieces = await read(engine.submit([Ask("word " * 500, Sampling(100))])[0])
        assert pieces[-1].prompt_tokens + pieces[-1].completion_tokens == 512

    asyncio.run(run())
