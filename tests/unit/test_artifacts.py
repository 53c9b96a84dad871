import hashlib
import os
import struct
from pathlib import Path

import pytest
import torch

from lmt2.artifacts import ArtifactStore
from lmt2.errors import ArtifactError, StorageError

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_tensors_come_back_as_they_were_put(store: ArtifactStore) -> None:
    found = store.get(store.put(TENSORS, {"base": "m"}))
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_content_has_one_name_and_one_file(store: ArtifactStore, tmp_path: Path) -> None:
    name = store.put(TENSORS, {"base": "m"})
    assert store.put(TENSORS, {"base": "m"}) == name
    assert [path.stem for path in files(tmp_path)] == [name]
    assert store.put(TENSORS, {"base": "other"}) != name


def test_an_object_store_does_as_well() -> None:
    store = ArtifactStore("memory://artifacts")
    assert torch.equal(store.get(store.put(TENSORS, {}))["a"], TENSORS["a"])


@pytest.mark.parametrize(
    "name",
    ["", "..", "../../etc/passwd", "0" * 63, "0" * 65, "0" * 63 + "G", "A" * 64, "0" * 64 + "\n", "/" + "0" * 63],
)
def test_what_is_no_hash_names_no_artifact(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ArtifactError, match="not an artifact's name"):
        store.get(name)


def test_an_artifact_that_is_not_there(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="holds no 0000"):
        store.get("0" * 64)


@pytest.mark.parametrize("length", [0, 1, -1])
def test_a_truncated_file_is_refused(store: ArtifactStore, tmp_path: Path, length: int) -> None:
    name = store.put(TENSORS, {})
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ArtifactError, match="damaged"):
        store.get(name)


def test_a_flipped_bit_is_noticed(store: ArtifactStore, tmp_path: Path) -> None:
    name = store.put(TENSORS, {})
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        store.get(name)


@pytest.mark.parametrize(
    "content", [b"", b"pickle?", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 17) + b'{"a": {"b": "c"}}']
)
def test_what_is_no_safetensors_file_is_refused(store: ArtifactStore, tmp_path: Path, content: bytes) -> None:
    name = hashlib.sha256(content).hexdigest()
    path = tmp_path / "artifacts" / name[:2] / f"{name}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        store.get(name)


def test_a_write_that_breaks_off_leaves_no_artifact(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="No space left on device; check disk space"):
            store.put(TENSORS, {})
    assert files(tmp_path) == []
    assert store.get(store.put(TENSORS, {})).keys() == TENSORS.keys()


def test_a_store_that_can_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="refused"):
        ArtifactStore(str(tmp_path / "file")).put(TENSORS, {})
