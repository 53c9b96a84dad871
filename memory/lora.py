"""What a question goes through, as a PEFT adapter folder, which any LoRA server takes.

A delta is a LoRA already: W + B A on some layers' down-projections. The folder says so in PEFT's words; with
alpha = r the delta's scale is 1.
"""

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from memory.shards import Delta


def export(delta: Delta, folder: Path, base_name: str) -> Path:
    """Write the adapter unless it is there: a folder under its final name is whole and never changes.

    Args:
        delta: what to write.
        folder: the adapter's own folder; name it by the shard's artifact and the expert.
        base_name: name of the base model, for people and for PEFT.
    """
    if folder.is_dir():
        return folder
    scratch = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.tmp")
    scratch.mkdir(parents=True)
    try:
        save_file(_tensors(delta), scratch / "adapter_model.safetensors", {"format": "pt"})
        (scratch / "adapter_config.json").write_text(json.dumps(_config(delta, base_name), indent=2))
        scratch.rename(folder)
    except OSError:
        shutil.rmtree(scratch)
        if not folder.is_dir():  # else another process was quicker
            raise
    return folder


def _tensors(delta: Delta) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for layer in delta.a:
        prefix = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        named[f"{prefix}.lora_A.weight"] = delta.a[layer].contiguous()
        named[f"{prefix}.lora_B.weight"] = delta.b[layer].contiguous()
    return named


def _config(delta: Delta, base_name: str) -> dict[str, Any]:
    rank = next(iter(delta.a.values())).shape[0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["down_proj"],
        "layers_to_transform": sorted(delta.a),
        "layers_pattern": "layers",
    }
