"""The `openai` package, over real HTTP, against the serving address."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from lmt2.artifacts import ArtifactStore
from lmt2.config import load
from lmt2.models.local import LocalModel
from serving.app import create_app
from serving.engine import EmbeddedEngine
from tests.support.http import running
from tests.support.tiny import WordEncoder, tiny_model, tiny_shard, tiny_version

QUESTION = "what is the capital of arstotzka"


class Server:
    """A running server, its engine, and the versions that it can be given."""

    def __init__(self, folder: Path) -> None:
        self.model = LocalModel(tiny_model(folder / "tiny"), "float32")
        self.engine = EmbeddedEngine(self.model, 8, 64)
        store = ArtifactStore(str(folder / "artifacts"))
        keys = WordEncoder()([QUESTION])
        self.versions = [tiny_version(self.model, store, [tiny_shard(keys, seed=seed)]) for seed in (1, 2)]
        self.app = create_app(load(folder, environment={}), self.engine, lambda: True)
        self.address = ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    with running(server.app) as server.address:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_completions_and_chat_whole_and_streamed(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"lmt2", "base"}
    whole = client.completions.create(model="lmt2", prompt="hello", temperature=0, max_tokens=8)
    streamed = client.completions.create(model="lmt2", prompt="hello", temperature=0, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text

    chat = client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "hello"}], temperature=0, max_completion_tokens=8
    )
    chunks = list(
        client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": "hello"}],
            temperature=0,
            max_completion_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == chat.choices[0].message.content
    assert chunks[-1].usage == chat.usage
    assert chat.choices[0].finish_reason == "length"


def test_refusals_are_the_clients_own_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="nobody", prompt="hello")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="n is not supported"):
        client.completions.create(model="lmt2", prompt="hello", n=2)


def test_swaps_under_load_fail_no_request_and_each_answer_names_its_version(server: Server) -> None:
    async def ask(client: AsyncOpenAI) -> tuple[str, str]:
        answer = await client.completions.create(model="lmt2", prompt=QUESTION, temperature=0, max_tokens=6)
        return str(answer.system_fingerprint), answer.choices[0].text

    async def run() -> list[tuple[str, str]]:
        async with AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
            expected = []
            for version in server.versions:
                server.engine.swap(version)
                expected.append(await ask(client))
            assert [name for name, _ in expected] == [version.manifest.id for version in server.versions]
            answers: list[tuple[str, str]] = []

            async def keep_asking() -> None:
                while len(answers) < 24 or set(answers) != set(expected):
                    answers.append(await ask(client))
                    assert answers[-1] in expected

            tasks = [asyncio.create_task(keep_asking()) for _ in range(6)]
            turns = 0
            async with asyncio.timeout(60):
                while not all(task.done() for task in tasks):
                    server.engine.swap(server.versions[turns % 2])
                    turns += 1
                    await asyncio.sleep(0.02)
            await asyncio.gather(*tasks)
            return expected

    (_, first), (_, second) = asyncio.run(run())
    assert first != second


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_hangs_up_frees_the_engine(
    server: Server, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    steps, take = [], LocalModel.stream

    def slow(*arguments: Any, **options: Any) -> Iterator[Any]:
        for tokens in take(*arguments, **options):
            steps.append(tokens)
            time.sleep(0.005)
            yield tokens

    monkeypatch.setattr(LocalModel, "stream", slow)
    body = {"model": "lmt2", "prompt": "hello", "max_tokens": 480, "temperature": 0}
    if is_streamed:
        with (
            httpx.Client(base_url=server.address) as client,
            client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer,
        ):
            next(answer.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.address}/v1/completions", json=body, timeout=0.1)
    httpx.post(f"{server.address}/v1/completions", json=body | {"max_tokens": 1}, timeout=60).raise_for_status()
    assert len(steps) < 400
