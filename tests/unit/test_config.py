from pathlib import Path

import pytest

from lmt2.config import Settings, default_home, load
from lmt2.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "lmt2.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_everything_has_a_default(tmp_path: Path) -> None:
    settings = load(tmp_path, environment={})
    assert settings == Settings(home=tmp_path)
    assert settings.ledger_url == f"sqlite:///{tmp_path}/ledger.db"
    assert settings.artifacts_url == str(tmp_path / "artifacts")


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    write(tmp_path, "[gate]\nmargin = 0.1\nport = 9000\n[serving]\nmax_batch = 2\n")
    settings = load(tmp_path, environment={"LMT2_GATE_MARGIN": "0.2"})
    assert (settings.gate.margin, settings.gate.port, settings.serving.max_batch) == (0.2, 9000, 2)
    assert settings.gate.tau == Settings(home=tmp_path).gate.tau


def test_a_chosen_file_is_read_instead_of_the_one_in_the_home(tmp_path: Path) -> None:
    write(tmp_path, "[gate]\nport = 1\n")
    chosen = tmp_path / "other.toml"
    chosen.write_text("[gate]\nport = 2\n", encoding="utf-8")
    assert load(tmp_path, chosen, {}).gate.port == 2
    assert load(tmp_path, environment={"LMT2_CONFIG": str(chosen)}).gate.port == 2


def test_a_chosen_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file .*none\.toml"):
        load(tmp_path, tmp_path / "none.toml", {})


def test_every_setting_has_a_variable(tmp_path: Path) -> None:
    environment = {
        "LMT2_LEARNER_LAYERS": "8, 12",
        "LMT2_SERVING_VLLM": "http://one:8000,http://two:8000,",
        "LMT2_MODEL_DTYPE": "float32",
        "LMT2_STORAGE_LEDGER": "postgresql+psycopg://db/lmt2",
        "LMT2_STUDY_ENDPOINT": "http://teacher",
        "LMT2_STUDY_ENDPOINT_MODEL": "big",
    }
    settings = load(tmp_path, environment=environment)
    assert settings.learner.layers == (8, 12)
    assert settings.serving.vllm == ("http://one:8000", "http://two:8000")
    assert settings.model.dtype == "float32"
    assert settings.ledger_url == "postgresql+psycopg://db/lmt2"
    assert settings.study.endpoint_model == "big"


def test_other_programs_variables_are_left_alone(tmp_path: Path) -> None:
    environment = {
        "PATH": "/bin",
        "LMT2_HOME": "x",
        "LMT2_CACHE": "y",
        "LMT2_TEST_KAFKA": "z",
        "lmt2_gate_margin": "no",
    }
    assert load(tmp_path, environment=environment) == Settings(home=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gate]\nmargn = 0.1\n", r"gate\.margn: Extra inputs are not permitted \(in .*lmt2\.toml\)"),
        ("[gates]\nmargin = 0.1\n", r"gates: Extra inputs are not permitted"),
        ("[gate]\nmargin = 1.5\n", r"gate\.margin: Input should be less than 1"),
        ("[gate]\nmargin = 'wide'\n", r"gate\.margin: Input should be a valid number"),
        ("[model]\ndtype = 'float16'\n", r"model\.dtype: Input should be 'auto', 'bfloat16' or 'float32'"),
        ("[learner]\nlayers = ['a']\n", r"learner\.layers\.0: "),
        ("[consumer]\nalpha = 0.1\nbeta = 0.2\n", r"consumer: .*beta must be smaller than alpha"),
        ("[study]\nendpoint = 'http://teacher'\n", r"study: .*endpoint_model is empty"),
        ("[kafka]\nsecurity = 'SASL_SSL'\n", r"kafka: .*username and password"),
        ("[kafka]\nusername = 'u'\npassword = 'p'\n", r"kafka: .*only with them"),
        ("gate = 3\n", r"gate: .* holds tables only"),
        ("home = '/elsewhere'\n", r"home: .* --home or LMT2_HOME"),
        ("[gate\n", r"lmt2\.toml is not a TOML file"),
    ],
)
def test_what_does_not_fit_is_refused_with_key_and_place(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, environment={})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LMT2_GATE_MARGN", "0.1", "LMT2_GATE_MARGN names no setting"),
        ("LMT2_MARGIN", "0.1", "LMT2_MARGIN names no setting"),
        ("LMT2_GATE_MARGIN", "wide", r"gate\.margin: .*valid number.* \(in LMT2_GATE_MARGIN\)"),
        ("LMT2_LEARNER_LAYERS", "8,x", r"learner\.layers\.1: .* \(in LMT2_LEARNER_LAYERS\)"),
    ],
)
def test_a_wrong_variable_is_refused(tmp_path: Path, name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, environment={name: value})


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    environment = {
        "LMT2_SECURITY_TOKEN": "s3cret",
        "LMT2_STUDY_ENDPOINT_KEY": "s3cret",
        "LMT2_SERVING_VLLM_KEY": "s3cret",
        "LMT2_KAFKA_SECURITY": "SASL_SSL",
        "LMT2_KAFKA_USERNAME": "user",
        "LMT2_KAFKA_PASSWORD": "s3cret",
    }
    assert "s3cret" not in repr(load(tmp_path, environment=environment))


def test_settings_do_not_change(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path, environment={}).gate.margin = 0.3  # type: ignore[misc]


def test_the_home_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMT2_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("LMT2_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_home() == tmp_path / ".lmt2"
