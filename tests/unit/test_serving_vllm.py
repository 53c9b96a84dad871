"""Several vLLM replicas behind one address: who is asked, with which adapter, and what happens when one is away."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from lmt2.artifacts import ArtifactStore
from lmt2.errors import ServingError
from lmt2.models.base import Sampling
from lmt2.models.local import LocalModel
from memory.routing import Route
from memory.versioned import VersionedModel
from serving.backend import Ask, Piece, RequestRefused
from serving.vllm_backend import VllmBackend, VllmReplica
from serving.vllm_client import ReplicaAway, VllmClient
from tests.support.http import running
from tests.support.tiny import WordEncoder, tiny_model, tiny_shard, tiny_version

QUESTION = "what is the capital of arstotzka"
OTHER = "which river crosses the valley of ooze"
CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"text": "Hel", "finish_reason": None}]},
    {"choices": [{"text": "lo", "finish_reason": "length"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
]


class FakeVllm:
    """Records what it is told, and answers every completion with the same chunks."""

    def __init__(self) -> None:
        self.adapters: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.chunks = CHUNKS
        self.app = FastAPI()
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/load_lora_adapter")(self.load)
        self.app.post("/v1/completions")(self.complete)
        self.address = ""

    def models(self) -> dict[str, Any]:
        loaded = [{"id": adapter["lora_name"], "parent": "tiny"} for adapter in self.adapters]
        return {"data": [{"id": "tiny", "parent": None}, *loaded]}

    def names(self) -> list[str]:
        return [adapter["lora_name"] for adapter in self.adapters]

    async def load(self, request: Request) -> None:
        self.adapters.append(await request.json())

    async def complete(self, request: Request) -> Response:
        self.asked.append(await request.json())
        if not self.asked[-1]["prompt"]:
            return JSONResponse({"error": {"message": "too short"}}, 400)
        return StreamingResponse(iter(f"data: {json.dumps(chunk)}\n\n" for chunk in self.chunks))


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    with ExitStack() as stack:
        servers = [FakeVllm(), FakeVllm()]
        for server in servers:
            server.address = stack.enter_context(running(server.app))
        yield servers


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> VersionedModel:
    folder = tmp_path_factory.mktemp("version")
    model = LocalModel(tiny_model(folder / "tiny"), "float32")
    shard = tiny_shard(WordEncoder()([QUESTION]))
    return tiny_version(model, ArtifactStore(str(folder / "artifacts")), [shard])


def replicas_of(servers: list[FakeVllm], folder: Path) -> list[VllmReplica]:
    return [VllmReplica(VllmClient(server.address, "key"), folder) for server in servers]


def answer(replicas: list[VllmReplica], *asks: Ask) -> list[list[Piece]]:
    async def run() -> list[list[Piece]]:
        backend = VllmBackend(replicas)
        try:
            return [[piece async for piece in delivery] for ask in asks for delivery in backend.submit([ask])]
        finally:
            await backend.close()

    return asyncio.run(run())


def test_a_question_goes_to_its_adapter_and_the_rest_to_the_base(
    servers: list[FakeVllm], version: VersionedModel, tmp_path: Path
) -> None:
    (replica, other) = replicas_of(servers, tmp_path)
    assert replica.served() is None
    replica.swap(version)
    assert replica.served() == version.manifest.id
    (artifact,) = [entry.artifact for entry in version.manifest.shards]
    assert servers[0].adapters == [{"lora_name": f"{artifact}-0", "lora_path": str(tmp_path / f"{artifact}-0")}]
    assert (tmp_path / f"{artifact}-0" / "adapter_model.safetensors").is_file()

    asks = [Ask(QUESTION, Sampling(2)), Ask("unrelated", Sampling(2)), Ask(QUESTION, Sampling(2), is_routed=False)]
    answers = answer([replica, other], *asks)
    assert [body["model"] for body in servers[0].asked] == [f"{artifact}-0", "tiny", "tiny"]
    assert [body["cache_salt"] for body in servers[0].asked] == [version.manifest.id, version.manifest.id, "base"]
    assert servers[1].asked == []  # it was never seen to be up
    assert answers[0] == [
        Piece("Hel", version.manifest.id),
        Piece("lo", version.manifest.id, "length", prompt_tokens=3, completion_tokens=2),
    ]


def test_replicas_share_the_load_and_stale_ones_are_left_out(
    servers: list[FakeVllm], version: VersionedModel, tmp_path: Path
) -> None:
    replicas = replicas_of(servers, tmp_path)
    for replica in replicas:
        replica.served()
    replicas[1].swap(version)
    answer(replicas, *[Ask(QUESTION, Sampling(2))] * 4)
    assert [len(server.asked) for server in servers] == [0, 4]

    replicas = replicas_of(servers, tmp_path)
    for replica in replicas:
        replica.served()
        replica.swap(version)
    answer(replicas, *[Ask(QUESTION, Sampling(2))] * 4)
    assert [len(server.asked) for server in servers] == [2, 6]
    assert len(servers[1].adapters) == 1  # what is there already is not loaded again


def test_an_older_shards_adapter_is_loaded_when_a_question_comes_to_it(
    servers: list[FakeVllm], version: VersionedModel, tmp_path: Path
) -> None:
    shards = [tiny_shard(WordEncoder()([text]), seed=seed) for seed, text in enumerate((QUESTION, OTHER))]
    both = tiny_version(version.model, ArtifactStore(str(tmp_path / "artifacts")), shards)
    old, new = [f"{entry.artifact}-0" for entry in both.manifest.shards]
    server, (replica, _) = servers[0], replicas_of(servers, tmp_path / "adapters")
    replica.served()
    replica.swap(both)
    assert server.names() == [new]
    assert {replica.adapter(both, Route(0, 0)) for _ in range(2)} == {old}
    assert server.names() == [new, old], "once"

    server.adapters.clear()  # it was restarted
    assert replica.served() is None
    replica.swap(both)
    assert replica.served() == both.manifest.id
    answer([replica], Ask(QUESTION, Sampling(2)), Ask(OTHER, Sampling(2)))
    assert server.names() == [new, old]
    assert [body["model"] for body in server.asked] == [old, new]


def test_no_replica_is_a_clear_error(tmp_path: Path) -> None:
    replica = VllmReplica(VllmClient("http://127.0.0.1:9", ""), tmp_path)
    with pytest.raises(ServingError, match="does not list its models"):
        replica.served()
    with pytest.raises(ServingError, match="no vLLM replica is ready"):
        answer([replica], Ask(QUESTION, Sampling(2)))


def test_a_replica_that_is_away_costs_no_request(
    servers: list[FakeVllm], version: VersionedModel, tmp_path: Path
) -> None:
    other, _ = replicas_of(servers, tmp_path)
    with running(FakeVllm().app) as address:
        dying = VllmReplica(VllmClient(address, "key"), tmp_path)
        for replica in (dying, other):
            replica.served()
            replica.swap(version)
    answers = answer([dying, other], *[Ask(QUESTION, Sampling(2))] * 4)
    assert [[piece.text for piece in pieces] for pieces in answers] == [["Hel", "lo"]] * 4
    assert not dying.is_up
    assert len(servers[0].asked) == 4


def test_an_answer_that_has_begun_is_not_begun_again_elsewhere(
    servers: list[FakeVllm], version: VersionedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks_off(*_: object) -> AsyncIterator[dict[str, Any]]:
        yield CHUNKS[0]
        raise ReplicaAway("the connection was reset")

    replicas = replicas_of(servers, tmp_path)
    for replica in replicas:
        replica.served()
        replica.swap(version)
    monkeypatch.setattr(replicas[0].client, "stream", breaks_off)
    with pytest.raises(ReplicaAway, match="was reset"):
        answer(replicas, Ask(QUESTION, Sampling(2)))
    assert servers[1].asked == []


def test_an_answer_that_breaks_off_or_is_refused_is_an_error(servers: list[FakeVllm], tmp_path: Path) -> None:
    servers[0].chunks = CHUNKS[:1]
    for ask, error, words in [
        (Ask(QUESTION, Sampling(2)), ServingError, "before its end"),
        (Ask("", Sampling(2)), RequestRefused, "too short"),
    ]:
        (replica, _) = replicas_of(servers, tmp_path)
        replica.served()
        with pytest.raises(error, match=words):
            answer([replica], ask)
