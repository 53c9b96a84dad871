"""Promotions and rollbacks while clients stream: every answer is whole, and one version's from first to last token.

    python -m benchmarks.serving --promotions 50 --rollbacks 10 --clients 8 --seconds 120 --json out.json
    python -m benchmarks.serving --vllm http://127.0.0.1:8001 --json out.json     # a server that is there already

Versions with random shards that a question is routed to are promoted in the ledger, one after the other; the serving
address follows by itself. Each answer names its version and is compared with what that version says when nothing else
goes on. Printed: answers, those that failed, mixed two versions or said something else, and how long a promotion took
from the ledger's commit until the replica's word that it serves the version.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from gate import registry
from gate.promotion import rollback
from lmt2.config import Settings, load
from lmt2.ledger import PromotionRow, ReplicaRow
from lmt2.models.base import Sampling
from lmt2.pipeline import Parts, serving
from lmt2.servers import address, listen
from memory.shards import Keys, Shard
from memory.versioned import base_fingerprint
from memory.versions import Manifest, ShardEntry, untouched

QUESTION = "Who keeps the lighthouse of Vell?"
TOKENS = 16
RANK = 2
SCALE = 0.5  # of random factors: enough that every version says something of its own
PATIENCE = 60.0


@dataclass(frozen=True)
class Answer:
    """What a client was told, and by which versions."""

    text: str
    versions: frozenset[str]
    error: str = ""


class Bench:
    """A serving address on a ledger of its own."""

    def __init__(self, settings: Settings) -> None:
        self.parts = Parts(settings)
        self._listener = listen("127.0.0.1", 0, "serving.port")
        self.url = address(self._listener)
        self._service = serving(self.parts, self._listener)
        self._thread = threading.Thread(target=self._service.run)

    def __enter__(self) -> "Bench":
        self._thread.start()
        deadline = time.monotonic() + PATIENCE
        while httpx.get(f"{self.url}/healthz").status_code != httpx.codes.OK:
            assert time.monotonic() < deadline, "the serving address did not become ready"
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._service.stop()
        self._thread.join()

    def version(self, seed: int) -> tuple[str, str]:
        """A new accepted version, and what it says when it is asked alone."""
        parts = self.parts
        shard = random_shard(parts, seed)
        entry = ShardEntry(artifact=parts.store.put(shard.tensors(), {}), documents=(f"d{seed}",), update=f"u{seed}")
        base = base_fingerprint(parts.model.folder)
        manifest = Manifest(base=base, parent=untouched(base).id, threshold=0.5, shards=(entry,))
        with parts.ledger.begin() as session:
            registry.add(session, manifest, None, "accepted")
        (text,) = parts.load_version(manifest.id).generate([[{"role": "user", "content": QUESTION}]], Sampling(TOKENS))
        return manifest.id, text

    def promote(self, name: str | None) -> float:
        """Promote a version, or roll back to the one before; seconds until it is served."""
        with self.parts.ledger.begin() as session:
            if name is None:
                name = rollback(session, self._before(session)).version_id
            else:
                session.add(PromotionRow(version_id=name, cause="promotion", decision=None))
        started = time.monotonic()
        while not self._is_served(name):
            assert time.monotonic() - started < PATIENCE, f"{name} is not served"
            time.sleep(0.005)
        return time.monotonic() - started

    def _before(self, session: Any) -> str:
        promoted = session.query(PromotionRow).order_by(PromotionRow.seq.desc()).limit(2).all()
        return str(promoted[1].version_id)

    def _is_served(self, name: str) -> bool:
        with self.parts.ledger.begin() as session:
            return all(row.version_id == name for row in session.query(ReplicaRow))

    def answers(self, is_over: threading.Event) -> Iterator[Answer]:
        """What one client is told, one answer after the other."""
        body = {"model": "lmt2", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
        with httpx.Client(base_url=self.url, timeout=PATIENCE) as client:
            while not is_over.is_set():
                yield _read(client, body | {"temperature": 0, "max_tokens": TOKENS})


def random_shard(parts: Parts, seed: int) -> Shard:
    """A shard of one expert that the question is routed to."""
    config, stream = parts.model.net.config, torch.Generator().manual_seed(seed)
    layers = parts.settings.learner.layers
    asked = parts.encoder([QUESTION])
    return Shard(
        a={n: (SCALE * torch.randn(RANK, config.intermediate_size, generator=stream)).bfloat16() for n in layers},
        b={n: (SCALE * torch.randn(config.hidden_size, RANK, generator=stream)).bfloat16() for n in layers},
        ranks=torch.zeros(RANK, dtype=torch.int32),
        keys=Keys(asked, parts.encoder.by_fact([QUESTION]), torch.zeros(1, dtype=torch.int32)),
    )


def run(settings: Settings, promotions: int, rollbacks: int, clients: int, seconds: float) -> dict[str, Any]:
    """The whole measurement; the promotions are spread over so many seconds."""
    with Bench(settings) as bench:
        said = dict(bench.version(seed) for seed in range(promotions))
        is_over = threading.Event()
        took: list[float] = []
        with ThreadPoolExecutor(clients) as pool:
            reading = [pool.submit(lambda: list(bench.answers(is_over))) for _ in range(clients)]
            try:
                for name in _plan(list(said), rollbacks):
                    time.sleep(seconds / (promotions + rollbacks))
                    took.append(bench.promote(name))
            finally:
                is_over.set()
            answers = [answer for client in reading for answer in client.result()]
    return _report(answers, said, took)


def _plan(names: list[str], rollbacks: int) -> Iterator[str | None]:
    """Promotions with rollbacks (None) spread evenly among them."""
    every = max(1, len(names) // max(1, rollbacks))
    for number, name in enumerate(names, 1):
        yield name
        if number > 1 and number % every == 0 and number // every <= rollbacks:
            yield None


def _report(answers: list[Answer], said: dict[str, str], took: list[float]) -> dict[str, Any]:
    whole = [answer for answer in answers if not answer.error]
    of_one = [answer for answer in whole if len(answer.versions) == 1]
    known = [answer for answer in of_one if min(answer.versions) in said]
    return {
        "answers": len(answers),
        "failed": len(answers) - len(whole),
        "mixed": len(whole) - len(of_one),
        "not what their version says": sum(said[min(a.versions)] != a.text.strip() for a in known),
        "versions seen": len({min(answer.versions) for answer in known}),
        "versions that differ in what they say": len(set(said.values())),
        "promotions and rollbacks": len(took),
        "seconds until served, p50": round(statistics.median(took), 3),
        "seconds until served, p99": round(statistics.quantiles(took, n=100)[98], 3),
    }


def _read(client: httpx.Client, body: dict[str, Any]) -> Answer:
    text, versions, is_whole = "", set(), False
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if not data:
                    continue
                if data == "[DONE]":
                    is_whole = True
                    break
                chunk = json.loads(data)
                text += chunk["choices"][0]["delta"].get("content", "")
                versions.add(chunk["system_fingerprint"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return Answer(text, frozenset(versions), f"{type(error).__name__}: {error}")
    return Answer(text, frozenset(versions), "" if is_whole else "the stream ended before its end")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promotions", type=int, default=50)
    parser.add_argument("--rollbacks", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long all of it lasts at least")
    parser.add_argument("--vllm", action="append", default=[], help="address of a vLLM replica; several are allowed")
    parser.add_argument("--config", type=Path, help="a configuration file; environment variables work too")
    parser.add_argument("--json", type=Path, help="where to write the report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        settings = load(Path(home), args.config)
        serving_settings = settings.serving.model_copy(update={"vllm": tuple(args.vllm)})
        model = settings.model.model_copy(update={"dtype": "float32"})  # so that other rows of a batch change nothing
        settings = settings.model_copy(update={"serving": serving_settings, "model": model})
        report = run(settings, args.promotions, args.rollbacks, args.clients, args.seconds)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
