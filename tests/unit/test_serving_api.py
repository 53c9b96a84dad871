"""The serving address's wire forms: what it answers, and how it says no."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lmt2.config import load
from lmt2.models.decoding import Batch
from lmt2.models.local import LocalModel
from serving.app import create_app
from serving.backend import BASE
from serving.engine import EmbeddedEngine
from tests.support.tiny import tiny_model

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


class Readiness:
    """A reconciler's word."""

    is_ready = True

    def __call__(self) -> bool:
        return self.is_ready


@pytest.fixture(scope="module")
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, readiness: Readiness) -> Iterator[TestClient]:
    model = LocalModel(tiny_model(tmp_path_factory.mktemp("tiny")), "float32")
    settings = load(Path("nowhere"), environment={"LMT2_SERVING_MAX_NEW_TOKENS": "24"})
    with TestClient(create_app(settings, EmbeddedEngine(model, 4, 8), readiness)) as client:
        yield client


def ask(client: TestClient, path: str = CHAT, status: int = 200, **fields: Any) -> Any:
    question: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "hello"}
    body = {"model": "lmt2", "temperature": 0, "max_tokens": 6} | question | fields
    answer = client.post(path, json={name: value for name, value in body.items() if value is not None})
    assert answer.status_code == status, answer.text
    return answer.json()


def events(client: TestClient, path: str = CHAT, **fields: Any) -> list[Any]:
    question: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "hello"}
    body = {"model": "lmt2", "temperature": 0, "max_tokens": 6, "stream": True} | question | fields
    with client.stream("POST", path, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert data.pop() == "[DONE]"
    return [json.loads(item) for item in data]


def test_a_stream_adds_up_to_the_whole_answer(client: TestClient) -> None:
    chat = ask(client)
    chunks = events(client)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert streamed == chat["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "length"]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}

    completion = ask(client, COMPLETIONS)
    chunks = events(client, COMPLETIONS, stream_options={"include_usage": True})
    usage = chunks.pop()
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == completion["choices"][0]["text"]
    assert usage["choices"] == []
    assert usage["usage"] == completion["usage"] == {"prompt_tokens": 1, "completion_tokens": 6, "total_tokens": 7}


def test_several_prompts_have_several_choices(client: TestClient) -> None:
    answer = ask(client, COMPLETIONS, prompt=["one", "two", "three"])
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    single = ask(client, COMPLETIONS, prompt="two")
    assert answer["choices"][1]["text"] == single["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == 18
    chunks = events(client, COMPLETIONS, prompt=["one", "two"])
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}


def test_both_models_are_there_and_name_what_answered(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert [card["id"] for card in listed["data"]] == ["lmt2", "base"]
    assert client.get("/v1/models/base").json()["object"] == "model"
    assert ask(client, model="base")["system_fingerprint"] == BASE


def test_sampling_follows_its_seed(client: TestClient) -> None:
    first, again, other = (ask(client, temperature=1.5, seed=seed)["choices"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_number_of_tokens_is_bounded(client: TestClient) -> None:
    assert ask(client, max_tokens=5000)["usage"]["completion_tokens"] == 24
    assert ask(client, max_tokens=None)["usage"]["completion_tokens"] == 24
    assert ask(client, max_completion_tokens=3)["usage"]["completion_tokens"] == 3
    assert ask(client, COMPLETIONS, max_tokens=None)["usage"]["completion_tokens"] == 16


def test_content_parts_and_the_developer_role_are_understood(client: TestClient) -> None:
    plain = ask(client, messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert ask(client, messages=messages)["choices"] == plain["choices"]


def test_a_stop_string_is_left_out(client: TestClient) -> None:
    whole = ask(client)["choices"][0]["message"]["content"]
    stopped = ask(client, stop=[whole[5:9], "never"])["choices"][0]
    assert stopped["message"]["content"] == whole[: whole.index(whole[5:9])]
    assert stopped["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        (CHAT, {"n": 2}, "n is not supported"),
        (CHAT, {"logprobs": True}, "logprobs is not supported"),
        (COMPLETIONS, {"logprobs": 0}, "logprobs is not supported"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools is not supported"),
        (CHAT, {"frequency_penalty": 0.5}, "frequency_penalty is not supported"),
        (CHAT, {"temperature": -1}, "temperature"),
        (CHAT, {"top_p": 0}, "top_p"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"stop": [""]}, "stop string is empty"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        (CHAT, {"messages": "hello"}, "messages"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": ""}, "prompt is empty"),
        (COMPLETIONS, {"prompt": [1, 2]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 5}, "at most 4"),
        (COMPLETIONS, {"model": None}, "model: Field required"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: TestClient, path: str, fields: dict[str, Any], named: str
) -> None:
    error = ask(client, path, status=400, **fields)
    assert named in error["error"]["message"]
    assert error["error"]["type"] == "invalid_request_error"


def test_fields_without_effect_are_let_pass(client: TestClient) -> None:
    ask(client, n=1, logprobs=False, presence_penalty=0.0, response_format={"type": "text"}, user="somebody")


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    answer = client.post(CHAT, content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    error = ask(client, status=404, model="gpt-17")["error"]
    assert error["code"] == "model_not_found"
    assert "gpt-17" in error["message"]
    assert client.get("/v1/models/gpt-17").status_code == 404


def test_a_prompt_beyond_the_context_is_refused(client: TestClient) -> None:
    error = ask(client, COMPLETIONS, status=400, prompt="word " * 600)["error"]
    assert error["code"] == "context_length_exceeded"


def test_a_full_queue_says_try_again(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedEngine, "_count", lambda _: 8)
    answer = client.post(CHAT, json={"model": "lmt2", "messages": HELLO})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "queue_full"


def test_a_failed_batch_is_a_server_error(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Batch, "step", broken)
    assert "out of luck" in ask(client, status=500)["error"]["message"]
    assert ask(client, status=500, stream=True)["error"]["type"] == "server_error"


def test_an_error_within_a_stream_is_part_of_it(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = Batch.step, itertools.count()

    def breaks_off(batch: Batch) -> list[int]:
        if next(steps) == 3:
            raise RuntimeError("out of luck")
        return step(batch)

    monkeypatch.setattr(Batch, "step", breaks_off)
    answer = client.post(CHAT, json={"model": "lmt2", "messages": HELLO, "stream": True})
    last = answer.text.strip().split("\n\n")[-1]
    assert "out of luck" in json.loads(last.removeprefix("data: "))["error"]["message"]


def test_health_follows_the_reconciler(client: TestClient, readiness: Readiness) -> None:
    assert client.get("/healthz").status_code == 200
    readiness.is_ready = False
    assert client.get("/healthz").status_code == 503
    readiness.is_ready = True


def test_metrics_are_there(client: TestClient) -> None:
    assert "lmt2_serving_version_info" in client.get("/metrics").text
