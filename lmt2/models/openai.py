"""A model behind any OpenAI-compatible endpoint: a bigger structurer or teacher is a setting."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from lmt2.errors import ModelError
from lmt2.models.base import Conversation, Sampling

AT_ONCE = 16
TIMEOUT_SECONDS = 120.0


class OpenAIModel:
    """Answers through `/v1/chat/completions`; the server does the batching."""

    def __init__(self, address: str, model: str, key: str) -> None:
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._model = model

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """One answer for each conversation; raises ModelError with the server's reason."""
        numbered = enumerate(conversations)
        http = httpx.Client(base_url=self._address, headers=self._headers, timeout=TIMEOUT_SECONDS)
        with http, ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda item: self._answer(http, item[1], sampling, sampling.seed + item[0]), numbered))

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:  # noqa: ARG002
        """Not every endpoint scores given answers, so none is asked to."""
        raise ModelError("an endpoint can write and read, but the probe model has to be local: it scores answers")

    def _answer(self, http: httpx.Client, conversation: Conversation, sampling: Sampling, seed: int) -> str:
        body = {
            "model": self._model,
            "messages": conversation,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
        }
        try:
            reply = http.post("/chat/completions", json=body)
            reply.raise_for_status()
            content: Any = reply.json()["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            reply = error.response
            raise ModelError(f"{error.request.url} answered {reply.status_code}: {reply.text[:300]}") from error
        except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
            raise ModelError(f"no answer from {self._address}: {error}; check study.endpoint") from error
        return str(content or "").strip()
