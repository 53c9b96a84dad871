"""A delta, written as an adapter folder, is the same model to PEFT as it is to the routed forward pass."""

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lmt2.models.local import LocalModel
from memory.lora import export
from memory.wise import RoutedRows
from tests.support.tiny import tiny_model, tiny_shard


def test_peft_computes_what_the_routed_rows_compute(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    delta = tiny_shard(torch.eye(4), layers=(0, 2), rank=3).through(0)
    folder = export(delta, tmp_path / "adapters" / "abc", "base")

    ids = torch.randint(0, 49152, (2, 17), generator=torch.Generator().manual_seed(1))
    ours = LocalModel(base, "float32")
    plain = ours.net(ids).logits
    with ours.use(RoutedRows([delta, delta])):
        routed = ours.net(ids).logits
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)

    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, routed, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, routed, atol=0.1)


def test_a_folder_under_its_name_never_changes(tmp_path: Path) -> None:
    folder = tmp_path / "abc"
    export(tiny_shard(torch.eye(4), seed=1).through(0), folder, "base")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert export(tiny_shard(torch.eye(4), seed=2).through(0), folder, "base") == folder
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]  # and no scratch folder is left


def test_the_adapter_touches_its_layers_only(tmp_path: Path) -> None:
    folder = export(tiny_shard(torch.eye(4), layers=(1, 3), rank=2).through(0), tmp_path / "abc", "base")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj"]
    assert config["layers_to_transform"] == [1, 3]
    assert config["lora_alpha"] == config["r"] == 2
