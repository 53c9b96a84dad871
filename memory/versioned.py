"""A version that answers: the base model, with each question going through the shard that the router picks."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lmt2.artifacts import ArtifactStore
from lmt2.errors import ArtifactError
from lmt2.models.base import Conversation, Sampling, TokenIds
from lmt2.models.encoder import Embeds
from lmt2.models.local import LocalModel
from memory.routing import Route, Router, nearest_experts
from memory.shards import Delta, Shard, from_tensors
from memory.versions import Manifest
from memory.wise import RoutedRows, generate, logprobs, side_of


class Shelf:
    """Loads shards, and keeps those that were loaded: versions share nearly all of them."""

    def __init__(self, store: ArtifactStore, model: LocalModel) -> None:
        self._store = store
        self._config = model.net.config
        self._shards: dict[str, Shard] = {}

    def shard(self, artifact: str) -> Shard:
        """The shard of an artifact; raises ArtifactError if it is damaged or of another base model."""
        if artifact not in self._shards:
            tensors = self._store.get(artifact)
            self._shards[artifact] = from_tensors(tensors, self._config.intermediate_size, self._config.hidden_size)
        return self._shards[artifact]

    def router(self, manifest: Manifest) -> Router:
        """The router of a version."""
        keys = [self.shard(entry.artifact).keys for entry in manifest.shards]
        return Router(keys, manifest.threshold, general_of(self._store, manifest))


class VersionedModel:
    """One version, ready to answer. It implements the model interface, so a gate examines what a user is served."""

    def __init__(self, model: LocalModel, encoder: Embeds, shelf: Shelf, manifest: Manifest) -> None:
        if manifest.base != base_fingerprint(model.folder):
            raise ArtifactError(f"version {manifest.id} was made for another base model ({manifest.base[:12]}…)")
        self.manifest = manifest
        self.model = model
        self.encoder = encoder
        self.shards = [shelf.shard(entry.artifact) for entry in manifest.shards]
        self._router = shelf.router(manifest)

    def route(self, questions: Sequence[str]) -> list[Route | None]:
        """Which shard, as a number in the manifest, and expert each question goes to."""
        return self._router.route(questions, self.encoder)

    def side(self, routes: Sequence[Route | None]) -> RoutedRows | None:
        """The side memory for a batch that is routed so; None where the base alone answers all of it."""
        return side_of(self.deltas(routes))

    def deltas(self, routes: Sequence[Route | None]) -> list[Delta | None]:
        """What questions of these routes go through; None: the base model alone."""
        return [None if route is None else self.shards[route.shard].through(route.expert) for route in routes]

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """Answers, each through what it is routed to."""
        routes = self.route([question_of(c) for c in conversations])
        return generate(self.model, conversations, self.deltas(routes), sampling)

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of answers' tokens, each conversation through its own shard."""
        routes = self.route([question_of(c) for c in conversations])
        return logprobs(self.model, conversations, answers, self.deltas(routes))

    def answer_logits(self, conversations: Sequence[Conversation], answers: Sequence[TokenIds]) -> Iterator[Tensor]:
        """Float32 logits [T, V] that predict each token of each answer, each conversation through its own shard."""
        routes = self.route([question_of(c) for c in conversations])
        for route, conversation, answer in zip(routes, conversations, answers, strict=True):
            with self.model.use(self.side([route])):
                (found,) = self.model.answer_logits([self.model.encode(conversation)], [answer])
            yield found


class ShardModel:
    """One shard that answers, as in service, but whether or not a router would send a question there."""

    def __init__(self, model: LocalModel, encoder: Embeds, shard: Shard) -> None:
        self._model = model
        self._encoder = encoder
        self._shard = shard

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[str]:
        """Answers, each through the expert whose fact is nearest to the question."""
        return generate(self._model, conversations, self._deltas(conversations), sampling)

    def logprobs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of answers' tokens, each through that expert."""
        return logprobs(self._model, conversations, answers, self._deltas(conversations))

    def _deltas(self, conversations: Sequence[Conversation]) -> list[Delta]:
        called = nearest_experts([question_of(c) for c in conversations], self._shard.keys, self._encoder)
        return [self._shard.through(expert) for expert in called]


def general_of(store: ArtifactStore, manifest: Manifest) -> Tensor:
    """Embeddings [G, E] of the general questions that a version's router compares with."""
    return torch.empty(0, 0) if manifest.general is None else store.get(manifest.general)["general"]


def question_of(conversation: Conversation) -> str:
    """What a conversation asks: its latest user turn."""
    return next((turn["content"] for turn in reversed(conversation) if turn["role"] == "user"), "")


def base_fingerprint(folder: Path) -> str:
    """SHA-256 of the base model's weights; shards are made for one and fit no other."""
    known = _FINGERPRINTS.get(folder)
    if known is None:
        digest = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
        known = _FINGERPRINTS[folder] = digest.hexdigest()
    return known


_FINGERPRINTS: dict[Path, str] = {}
