"""Asks a serving address questions, as any client of the OpenAI API would."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from lmt2.errors import ServingError

ModelName = Literal["lmt2", "base"]
AT_ONCE = 16  # questions under way; the server batches them
SECONDS = httpx.Timeout(600.0, connect=5.0)  # an answer may have to wait for its turn


@dataclass(frozen=True)
class Answer:
    """What a model said, and which version of it."""

    text: str
    version: str


def ask(address: str, model: ModelName, question: str, most_tokens: int = 256) -> Answer:
    """One greedy answer; raises ServingError."""
    (answer,) = ask_all(address, model, [question], most_tokens)
    return answer


def ask_all(
    address: str,
    model: ModelName,
    questions: Sequence[str],
    most_tokens: int = 32,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Greedy answers, in the questions' order. `on_answer` hears of each as it comes.

    Raises:
        ServingError: nothing answers at the address, or it refused; the message says what to do.
    """
    return asyncio.run(_ask_all(address, model, questions, most_tokens, on_answer))


async def _ask_all(
    address: str, model: ModelName, questions: Sequence[str], most_tokens: int, on_answer: Callable[[], None]
) -> list[Answer]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(client: httpx.AsyncClient, question: str) -> Answer:
        async with turn:
            answer = await _post(client, _body(model, question, most_tokens))
        on_answer()
        return answer

    async with httpx.AsyncClient(base_url=address, timeout=SECONDS, trust_env=False) as client:
        return await asyncio.gather(*(one(client, question) for question in questions))


async def _post(client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    try:
        reply = await client.post("/v1/chat/completions", json=body)
        if reply.is_error:
            raise ServingError(f"{client.base_url} answered {reply.status_code}: {_message(reply)}")
        content = reply.json()
        return Answer(content["choices"][0]["message"]["content"].strip(), content["system_fingerprint"])
    except httpx.ConnectError as error:
        raise ServingError(f"nothing answers at {client.base_url}: start `lmt2 up`, or name its --home") from error
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise ServingError(f"{client.base_url} is no LMT² that works: {type(error).__name__}: {error}") from error


def _message(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, LookupError):
        return reply.text[:400]


def _body(model: ModelName, question: str, most_tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "max_tokens": most_tokens, "temperature": 0}
