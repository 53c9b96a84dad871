"""A model behind an OpenAI-compatible address: a small real server that counts, delays and fails."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lmt2.errors import ModelError
from lmt2.models.base import Conversation, Sampling
from lmt2.models.openai import OpenAIModel
from lmt2.study.prompts import user
from tests.support.ports import free_ports


class Endpoint(ThreadingHTTPServer):
    """Answers with the question in capitals, or with what it is told to."""

    daemon_threads = True
    request_queue_size = 64  # connections that come at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.paths: list[str] = []
        self.reply: tuple[int, bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.headers.append(self.headers.get("Authorization"))
        self.server.paths.append(self.path)
        message = {"role": "assistant", "content": f" {body['messages'][-1]['content'].upper()}\n"}
        status, content = self.server.reply or (200, json.dumps({"choices": [{"message": message}]}).encode())
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def asked(*questions: str) -> list[Conversation]:
    return [[user(question)] for question in questions]


def test_many_questions_at_once_keep_their_order(endpoint: Endpoint) -> None:
    questions = [f"question {n}" for n in range(40)]
    model = OpenAIModel(endpoint.address + "/", "big", key="")
    assert model.generate(asked(*questions), Sampling()) == [question.upper() for question in questions]
    assert set(endpoint.paths) == {"/v1/chat/completions"}
    assert model.generate([], Sampling()) == []


def test_the_sampling_plan_and_the_key_are_sent(endpoint: Endpoint) -> None:
    conversation = [user("one"), {"role": "assistant", "content": "two"}, user("three")]
    plan = Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9, seed=40)
    OpenAIModel(endpoint.address, "big", key="s3cret").generate([conversation, conversation], plan)  # type: ignore[list-item]
    assert endpoint.headers == ["Bearer s3cret"] * 2
    assert sorted(body.pop("seed") for body in endpoint.bodies) == [40, 41]
    assert endpoint.bodies == 2 * [
        {"model": "big", "messages": conversation, "max_tokens": 7, "temperature": 0.5, "top_p": 0.9}
    ]
    OpenAIModel(endpoint.address, "big", key="").generate(asked("one"), plan)
    assert endpoint.headers[-1] is None


def test_an_answer_without_content_is_an_empty_answer(endpoint: Endpoint) -> None:
    endpoint.reply = 200, b'{"choices": [{"message": {"content": null}}]}'
    assert OpenAIModel(endpoint.address, "big", "").generate(asked("one"), Sampling()) == [""]


def test_a_refusal_is_passed_on_with_its_reason(endpoint: Endpoint) -> None:
    endpoint.reply = 429, b'{"error": {"message": "too many requests"}}'
    with pytest.raises(ModelError, match=r"answered 429: .*too many requests") as caught:
        OpenAIModel(endpoint.address, "big", "s3cret").generate(asked("one"), Sampling())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>hello</html>", b'{"choices": []}', b'{"choices": null}', b"{}", b"[]"])
def test_a_reply_that_is_no_completion_is_an_error(endpoint: Endpoint, content: bytes) -> None:
    endpoint.reply = 200, content
    with pytest.raises(ModelError, match=r"no answer from .*study\.endpoint"):
        OpenAIModel(endpoint.address, "big", "").generate(asked("one"), Sampling())


def test_an_address_where_nobody_answers_is_an_error() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ModelError, match=r"no answer from .*study\.endpoint"):
        OpenAIModel(f"http://127.0.0.1:{port}/v1", "big", "").generate(asked("one"), Sampling())


def test_answers_are_not_scored() -> None:
    with pytest.raises(ModelError, match="local"):
        OpenAIModel("http://127.0.0.1:9/v1", "big", "").logprobs(asked("one"), ["two"])
