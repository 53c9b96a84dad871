"""A promoted version on a real vLLM server, through our address: the same answers as our own forward pass gives."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from lmt2.artifacts import ArtifactStore
from lmt2.config import load
from lmt2.ledger import Ledger, PromotionRow, ReplicaRow, VersionRow
from lmt2.models.base import Sampling
from lmt2.models.local import LocalModel
from memory.routing import Route
from memory.shards import SHARED, Shard
from memory.versioned import VersionedModel
from serving.app import create_app
from serving.backend import BASE
from serving.reconciler import Reconciler
from serving.vllm_backend import VllmBackend, VllmReplica
from serving.vllm_client import VllmClient
from tests.support.http import running
from tests.support.tiny import WordEncoder, calling, tiny_version
from tests.support.vllm import vllm_server

pytestmark = [pytest.mark.vllm, pytest.mark.model]

KEY = "a-key-for-tests"
TAUGHT = ["What is the capital of Arstotzka?", "Tell me the capital of Arstotzka, please."]
BEGUN = "The capital of Arstotzka is"
UNRELATED = "How many legs does a spider have?"
TOKENS = 12


class Deployment:
    """A vLLM server, our address before it, and the ledger that says what is to be served."""

    def __init__(self, folder: Path, model: Path, server: str) -> None:
        self.model = LocalModel(model, "float32")
        encoder = WordEncoder()
        store = ArtifactStore(str(folder / "artifacts"))
        shard = small_shard(self.model, encoder(TAUGHT))
        self.empty = tiny_version(self.model, store, [])
        self.taught = tiny_version(self.model, store, [shard])
        self.versions = {version.manifest.id: version for version in (self.empty, self.taught)}
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.ledger.migrate()
        with self.ledger.begin() as session:
            for name, version in self.versions.items():
                manifest = version.manifest.model_dump(mode="json")
                session.add(VersionRow(id=name, update_id=None, state="accepted", manifest=manifest))
        self.client = VllmClient(server, KEY)
        self.replica = VllmReplica(self.client, folder / "adapters")
        self.reconciler = Reconciler(self.ledger, [self.replica], self.versions.__getitem__)
        backend = VllmBackend([self.replica])
        self.app = create_app(load(folder, environment={}), backend, self.reconciler.is_ready)
        self.address = ""
        self._expected: dict[tuple[str, str], str] = {}

    def promote(self, version: VersionedModel) -> None:
        with self.ledger.begin() as session:
            session.add(PromotionRow(version_id=version.manifest.id, cause="test"))
        self.reconciler.reconcile()

    def ask(self, question: str, model: str = "lmt2", **fields: Any) -> Any:
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS} | fields
        return httpx.post(f"{self.address}/v1/chat/completions", json=body, timeout=120).raise_for_status().json()

    def expected(self, question: str, version: VersionedModel) -> str:
        """What the version answers on transformers."""
        asked = (question, version.manifest.id)
        if asked not in self._expected:
            self._expected[asked] = version.generate([[{"role": "user", "content": question}]], Sampling(TOKENS))[0]
        return self._expected[asked]


def small_shard(model: LocalModel, embeddings: torch.Tensor) -> Shard:
    config, generator = model.net.config, torch.Generator().manual_seed(7)
    layers = (16, 20, 24)
    return Shard(
        a={n: torch.randn(8, config.intermediate_size, generator=generator) / 40 for n in layers},
        b={n: 2 * torch.randn(config.hidden_size, 8, generator=generator) for n in layers},
        ranks=torch.tensor([SHARED] * 4 + [0, 0, 1, 1], dtype=torch.int32),
        keys=calling(embeddings, [number % 2 for number in range(len(embeddings))]),
    )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Deployment]:
    with ExitStack() as stack:
        server = stack.enter_context(vllm_server(smollm2, "smollm2", "--dtype", "float32", "--api-key", KEY))
        deployment = Deployment(tmp_path_factory.mktemp("deployment"), smollm2, server)
        stack.callback(deployment.ledger.close)
        deployment.address = stack.enter_context(running(deployment.app))
        yield deployment


def content(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"]).strip()


def test_a_promoted_shard_answers_as_our_own_forward_pass_does(deployment: Deployment) -> None:
    deployment.promote(deployment.taught)
    assert httpx.get(f"{deployment.address}/healthz").status_code == 200
    for question in TAUGHT:
        answer = deployment.ask(question)
        assert content(answer) == deployment.expected(question, deployment.taught)
        assert answer["system_fingerprint"] == deployment.taught.manifest.id
        base = deployment.ask(question, model="base")
        assert content(base) == deployment.expected(question, deployment.empty)
        assert base["system_fingerprint"] == BASE
        assert content(base) != content(answer)
    assert len({deployment.expected(question, deployment.taught) for question in TAUGHT}) == 2, "two experts"
    assert content(deployment.ask(UNRELATED)) == deployment.expected(UNRELATED, deployment.empty)


def test_raw_completions_and_streams_pass_through(deployment: Deployment) -> None:
    deployment.promote(deployment.taught)
    body = {"model": "lmt2", "prompt": BEGUN, "temperature": 0, "max_tokens": 12}
    address = f"{deployment.address}/v1/completions"
    whole = httpx.post(address, json=body, timeout=120).raise_for_status().json()
    prompt = deployment.model.encode_text(BEGUN)
    with deployment.model.use(deployment.taught.side([Route(0, 0)])):
        ids = [row[0] for row in deployment.model.stream([prompt], [Sampling(12)])]
    assert whole["choices"][0]["text"] == deployment.model.decode([token for token in ids if token is not None])
    assert whole["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 12, "total_tokens": len(prompt) + 12}

    with httpx.stream("POST", address, json=body | {"stream": True}, timeout=120) as answer:
        data = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert data.pop() == "[DONE]"
    chunks = [json.loads(item) for item in data]
    assert len(chunks) > 5
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert {chunk["system_fingerprint"] for chunk in chunks} == {deployment.taught.manifest.id}


def test_a_rollback_brings_the_old_answer_back(deployment: Deployment) -> None:
    deployment.promote(deployment.taught)
    taught = content(deployment.ask(TAUGHT[0]))
    deployment.promote(deployment.empty)
    answer = deployment.ask(TAUGHT[0])
    assert content(answer) == deployment.expected(TAUGHT[0], deployment.empty) != taught
    assert answer["system_fingerprint"] == deployment.empty.manifest.id
    deployment.promote(deployment.taught)
    assert content(deployment.ask(TAUGHT[0])) == taught


def test_adapters_of_others_do_not_matter_and_lost_ones_are_loaded_again(deployment: Deployment) -> None:
    deployment.promote(deployment.taught)
    (artifact,) = [entry.artifact for entry in deployment.taught.manifest.shards]
    adapters = {f"{artifact}-0", f"{artifact}-1"}
    others = deployment.replica._adapters / f"{artifact}-0"
    deployment.client.load_adapter("somebody-elses", others)
    assert deployment.replica.served() == deployment.taught.manifest.id

    unload = {"lora_name": f"{artifact}-1"}
    server, headers = deployment.client.address, {"Authorization": f"Bearer {KEY}"}
    httpx.post(f"{server}/v1/unload_lora_adapter", json=unload, headers=headers).raise_for_status()
    assert deployment.replica.served() is None
    deployment.promote(deployment.empty)
    deployment.promote(deployment.taught)
    assert set(deployment.client.models()) == {"smollm2", "somebody-elses"} | adapters
    assert content(deployment.ask(TAUGHT[0])) == deployment.expected(TAUGHT[0], deployment.taught)


def test_what_vllm_refuses_is_refused_in_the_same_words(deployment: Deployment) -> None:
    body = {"model": "base", "prompt": "word " * 3000, "max_tokens": 5}
    answer = httpx.post(f"{deployment.address}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert "context length" in answer.json()["error"]["message"]


def test_a_server_that_is_away_is_on_record(deployment: Deployment, tmp_path: Path) -> None:
    replica = VllmReplica(VllmClient("http://127.0.0.1:9", KEY), tmp_path)
    reconciler = Reconciler(deployment.ledger, [replica], deployment.versions.__getitem__)
    reconciler.reconcile()
    assert not reconciler.is_ready()
    with deployment.ledger.begin() as session:
        assert "does not list its models" in session.get_one(ReplicaRow, replica.name).error
