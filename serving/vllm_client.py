"""One vLLM server: its models and adapters, and its streams of answers."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from lmt2.errors import ServingError
from serving.backend import RequestRefused

CONTROL_SECONDS = 30.0  # loading an adapter takes milliseconds; a busy server may take a while to answer
ANSWER_TIMEOUT = httpx.Timeout(None, connect=5.0)  # an answer may have to wait for its turn


class ReplicaAway(ServingError):
    """The server can't be reached, or went away."""


class VllmClient:
    """Speaks to one server. Control calls are for threads, answers for the event loop."""

    def __init__(self, address: str, key: str) -> None:
        self.address = address.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._control = httpx.Client(base_url=self.address, headers=headers, timeout=CONTROL_SECONDS)
        self._answers = httpx.AsyncClient(base_url=self.address, headers=headers, timeout=ANSWER_TIMEOUT)

    def models(self) -> dict[str, str | None]:
        """Names of what the server can answer with, and for an adapter the name of its base model."""
        try:
            cards = self._control.get("/v1/models").raise_for_status().json()["data"]
            return {card["id"]: card.get("parent") for card in cards}
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise ServingError(f"vLLM at {self.address} does not list its models: {error}") from error

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter under a name that was never used for another one.

        Never in place: vLLM would read the folder again with every request, for ever, and die when it is gone.

        Raises:
            ReplicaAway: the server can't be reached.
            ServingError: it refuses the adapter.
        """
        try:
            answer = self._control.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
        except httpx.HTTPError as error:
            raise ReplicaAway(f"vLLM at {self.address} does not load adapters: {error}") from error
        if answer.is_error and name not in self.models():  # another process may have loaded it meanwhile
            raise ServingError(f"vLLM at {self.address} refused adapter {name[:12]}…: {_message(answer)}")

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a streamed answer.

        Raises:
            RequestRefused: the server says that the request can't be answered.
            ReplicaAway: it can't be reached, or went away.
            ServingError: it failed.
        """
        try:
            async with self._answers.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise self._refusal(answer)
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data: ")
                    if data and data != "[DONE]":
                        yield self._checked(json.loads(data))
        except httpx.TransportError as error:
            raise ReplicaAway(f"vLLM at {self.address} did not finish the answer: {error}") from error
        except (httpx.HTTPError, ValueError) as error:
            raise ServingError(f"vLLM at {self.address} did not finish the answer: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        self._control.close()
        await self._answers.aclose()

    def _refusal(self, answer: httpx.Response) -> ServingError:
        if answer.status_code == httpx.codes.BAD_REQUEST:
            return RequestRefused(_message(answer))
        return ServingError(f"vLLM at {self.address} answered {answer.status_code}: {_message(answer)}")

    def _checked(self, chunk: dict[str, Any]) -> dict[str, Any]:
        if "error" in chunk:
            raise ServingError(f"vLLM at {self.address} failed: {chunk['error'].get('message', chunk['error'])}")
        return chunk


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:400]
