"""A real vLLM OpenAI server on the CPU, with adapters that can be loaded while it runs."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from lmt2.models.precision import dtype_of
from tests.support.parts import missing
from tests.support.ports import free_ports

START_SECONDS = 240  # on two cores it takes some 20
STOP_SECONDS = 30
# What makes a short-lived server quick: everything in one process, nothing compiled.
QUICK = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def require_vllm() -> None:
    """Leave the test out where vLLM isn't installed."""
    if importlib.util.find_spec("vllm") is None:
        missing("there is no vLLM: run scripts/vllm_cpu.sh")


@contextmanager
def vllm_server(
    model: Path, name: str = "base", *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server of one model; yields its root address, under which `/v1` and `/health` are.

    Args:
        model: the folder of the model's files.
        name: what the model is called in `/v1/models`.
        options: more of vLLM's command-line options, `--api-key` say.
        environment: more environment variables, `VLLM_PLUGINS` say.
    """
    require_vllm()
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    dtype = str(dtype_of("auto")).removeprefix("torch.")
    command += ["--model", str(model), "--served-model-name", name, "--dtype", dtype, "--max-model-len", "2048"]
    command += ["--enforce-eager", "--distributed-executor-backend", "uni", "--max-num-seqs", "16"]
    command += ["--enable-lora", "--max-loras", "4", "--max-lora-rank", "16", *options]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, env={**os.environ, **QUICK, **(environment or {})}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            if not _wait_until_healthy(address, server):
                log.seek(0)
                raise RuntimeError(f"vLLM did not start:\n{log.read().decode(errors='replace')[-4000:]}")
            yield address
        finally:
            _stop(server)


def _wait_until_healthy(address: str, server: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/health", timeout=5).is_success:
                return True
        except httpx.TransportError:
            time.sleep(0.5)
    return False


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
