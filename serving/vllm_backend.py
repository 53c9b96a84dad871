"""Plain vLLM behind the serving address: each expert is a LoRA adapter, and a request goes to the one of its route.

An adapter is named by its shard's hash and its expert, so a name never stands for two contents, and versions share
the adapters that they share. A version itself is only our router: promoting one costs the same with ten shards and with
ten thousand. The newest shard's adapters are loaded at once, which proves that the server can; the others when a
question first comes to them.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmt2.errors import ServingError
from memory.lora import export
from memory.routing import Route
from memory.versioned import VersionedModel
from serving.backend import BASE, Ask, Delivery, FinishReason, Piece
from serving.vllm_client import ReplicaAway, VllmClient


class VllmReplica:
    """One vLLM server, as a target of the reconciler.

    Args:
        client: speaks to the server.
        adapters: folder for adapters, which the server sees under the same path.
    """

    def __init__(self, client: VllmClient, adapters: Path) -> None:
        self.name = client.address
        self.client = client
        self.version: VersionedModel | None = None
        self.base = ""
        self.is_up = False
        self.swapped_at = 0.0
        self._adapters = adapters.absolute()
        self._loaded: set[str] = set()
        self._loading = threading.Lock()

    @property
    def version_id(self) -> str | None:
        """The version that requests to this replica are routed by."""
        return _id(self.version)

    def served(self) -> str | None:
        """Asks the server; a restarted one has forgotten its adapters and is back at the base model."""
        try:
            listed = self.client.models()
        except ServingError:
            self.is_up = False
            raise
        self.base = next(name for name, parent in listed.items() if parent is None)
        self._loaded = {name for name, parent in listed.items() if parent is not None}
        self.is_up = self.version is None or self._loaded >= {name_of(self.version, r) for r in newest(self.version)}
        return self.version_id if self.is_up else None

    def swap(self, version: VersionedModel | None) -> None:
        """Load the adapters of the newest shard, then route by the version."""
        if version is not None:
            for route in newest(version):
                self.adapter(version, route)
        self.version, self.swapped_at = version, time.monotonic()

    def adapter(self, version: VersionedModel, route: Route) -> str:
        """The name of a route's adapter, which the server has once this returns."""
        name = name_of(version, route)
        with self._loading:
            if name not in self._loaded:
                delta = version.shards[route.shard].through(route.expert)
                self.client.load_adapter(name, export(delta, self._adapters / name, self.base))
                self._loaded.add(name)
        return name


class VllmBackend:
    """Routes each request and passes it on to a replica that serves the newest version."""

    def __init__(self, replicas: Sequence[VllmReplica]) -> None:
        self._replicas = replicas
        self._turn = itertools.count()
        self._router = ThreadPoolExecutor(1, thread_name_prefix="router")  # one at a time: they'd fight for the cores
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, asks: Sequence[Ask]) -> list[Delivery]:
        """Pass the prompts on; one version answers them all, and one replica unless it goes away."""
        replica = self._pick()
        return [self._start(ask, replica, replica.version) for ask in asks]

    async def close(self) -> None:
        """Let the answers that run end, and close the connections."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._router.shutdown()
        for replica in self._replicas:
            await replica.client.close()

    def _pick(self) -> VllmReplica:
        up = [replica for replica in self._replicas if replica.is_up]
        if not up:
            raise ServingError("no vLLM replica is ready")
        newest = max(self._replicas, key=lambda replica: replica.swapped_at).version_id
        current = [replica for replica in up if replica.version_id == newest] or up
        return current[next(self._turn) % len(current)]

    def _start(self, ask: Ask, replica: VllmReplica, version: VersionedModel | None) -> Delivery:
        delivery = Delivery()
        task = asyncio.create_task(self._deliver(ask, replica, version, delivery))
        delivery.on_cancel = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return delivery

    async def _deliver(
        self, ask: Ask, replica: VllmReplica, version: VersionedModel | None, delivery: Delivery
    ) -> None:
        has_begun = False
        try:
            async for piece in self._pieces(ask, replica, version if ask.is_routed else None):
                has_begun = True
                delivery.put(piece)
        except ReplicaAway as error:
            replica.is_up = False  # until the reconciler has seen it again
            other = next((r for r in self._replicas if r.is_up and r.version_id == _id(version)), None)
            if has_begun or other is None:
                delivery.put(error)
            else:
                await self._deliver(ask, other, version, delivery)
        except ServingError as error:
            delivery.put(error)
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer must hear of it
            delivery.put(ServingError(f"the answer failed: {type(error).__name__}: {error}"))

    async def _pieces(self, ask: Ask, replica: VllmReplica, version: VersionedModel | None) -> AsyncIterator[Piece]:
        model = replica.base if version is None else await self._model(ask, replica, version)
        async for piece in _pieces(replica.client, ask, model, _id(version) or BASE):
            yield piece

    async def _model(self, ask: Ask, replica: VllmReplica, version: VersionedModel) -> str:
        """What the version's router picks on a replica: an adapter, or the base model."""

        def pick() -> str:
            (route,) = version.route([ask.question])
            return replica.base if route is None else replica.adapter(version, route)

        return await asyncio.get_running_loop().run_in_executor(self._router, pick)


def _id(version: VersionedModel | None) -> str | None:
    return None if version is None else version.manifest.id


def newest(version: VersionedModel) -> list[Route]:
    """The routes into a version's newest shard."""
    place = len(version.shards) - 1
    return [Route(place, expert) for shard in version.shards[-1:] for expert in shard.experts]


def name_of(version: VersionedModel, route: Route) -> str:
    """The adapter of a route."""
    return f"{version.manifest.shards[route.shard].artifact}-{route.expert}"


async def _pieces(client: VllmClient, ask: Ask, model: str, version: str) -> AsyncIterator[Piece]:
    """The answer's pieces; the last waits for the token counts, which vLLM sends after the end."""
    path = "/v1/completions" if isinstance(ask.prompt, str) else "/v1/chat/completions"
    text, reason = "", None
    async for chunk in client.stream(path, _body(ask, model, version)):
        for choice in chunk["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            reason = choice["finish_reason"]
            if text and reason is None:
                yield Piece(text, version)
        if usage := chunk.get("usage"):
            end: FinishReason = "length" if reason == "length" else "stop"
            yield Piece(text, version, end, usage["prompt_tokens"], usage["completion_tokens"])
            return
    raise ServingError(f"vLLM at {client.address} ended the answer before its end")


def _body(ask: Ask, model: str, version: str) -> dict[str, Any]:
    prompt = {"prompt": ask.prompt} if isinstance(ask.prompt, str) else {"messages": ask.prompt}
    return prompt | {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": ask.sampling.max_new_tokens,
        "temperature": ask.sampling.temperature,
        "top_p": ask.sampling.top_p,
        "seed": ask.sampling.seed,
        "stop": list(ask.stop),
        "cache_salt": version,
    }
