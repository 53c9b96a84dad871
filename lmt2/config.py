"""Configuration: defaults in code, one TOML file, and an environment variable for every key.

`[gate] margin` is `LMT2_GATE_MARGIN`. The environment wins over the file, the file over the defaults.
A key that doesn't exist, in either, is refused with the reason before anything starts.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmt2.errors import ConfigError

OUTSIDE = {"LMT2_HOME", "LMT2_CONFIG", "LMT2_CACHE"}  # variables that aren't keys of a section


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Section):
    """The model that learns and serves, and the sentence encoder of the router."""

    name: str = Field("smollm2-135m-instruct", description="an asset's name or a folder")
    encoder: str = "all-minilm-l6-v2"
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it, else float32, which is faster there"
    )
    threads: int = Field(0, ge=0, description="0: as many as there are cores")


class StudySettings(Section):
    """Who reads documents and writes lessons: the shipped adapters, or a bigger model behind an endpoint."""

    endpoint: str = Field("", description="an OpenAI-compatible address; empty: the shipped adapters")
    endpoint_model: str = ""
    endpoint_key: str = Field("", repr=False)
    answers: int = Field(40, ge=1, description="the most answers of a passage that questions are written for")
    rounds: int = Field(2, ge=1, description="rounds of question writing; the later ones rephrase, or go back")
    phrasings: int = Field(4, ge=1, description="the most phrasings that are kept of a fact")
    check: bool = Field(True, description="whether the reader checks what was written; off only to measure the check")
    seconds: float = Field(600.0, gt=0, description="budget of a document; passages that it doesn't reach are left out")
    probes: int = Field(10, ge=0, description="questions of a document that are held back for the gate")

    @model_validator(mode="after")
    def _endpoint_with_model(self) -> "StudySettings":
        if self.endpoint and not self.endpoint_model:
            raise ValueError("endpoint_model is empty: name the model to ask at the endpoint")
        return self


class KafkaSettings(Section):
    """Kafka; with no bootstrap address the embedded event log is used."""

    bootstrap: str = Field("", description="HOST:PORT, several with commas")
    group_prefix: str = "lmt2"
    instance_id: str = Field(
        "",
        pattern="^[A-Za-z0-9._-]{0,100}$",
        description="names this process, so that it gets its partitions back if it restarts within the session",
    )
    session_seconds: float = Field(
        10.0, ge=1, le=1800, description="after which the partitions of a member that isn't heard of go to others"
    )
    partitions: int = Field(3, ge=1, description="of topics that don't exist yet")
    replication: int = Field(1, ge=1, description="of topics that don't exist yet")
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    password: str = Field("", repr=False)
    ca_file: str = Field("", description="certificates that vouch for the brokers; empty: the system's")
    cert_file: str = Field("", description="certificate by which brokers know this client, with its key or key_file")
    key_file: str = ""

    @model_validator(mode="after")
    def _sasl_with_user(self) -> "KafkaSettings":
        if self.security.startswith("SASL") != bool(self.username and self.password):
            raise ValueError("username and password go with security SASL_PLAINTEXT or SASL_SSL, and only with them")
        return self


class StorageSettings(Section):
    """Where the ledger and the artifacts are; empty: in the home folder."""

    ledger: str = Field("", description="an SQLAlchemy URL")
    artifacts: str = Field("", description="a folder or an fsspec URL")


class ConsumerSettings(Section):
    """Intake, conflict score (KaFT, eq. 2) and triage."""

    max_text_bytes: int = Field(1_000_000, ge=1)
    samples: int = Field(4, ge=1, description="answers sampled per question for the conflict score")
    questions: int = Field(16, ge=1, description="questions of a document that are scored")
    alpha: float = Field(1.0, gt=0, description="weight of a lesson that conflicts with what the model says")
    beta: float = Field(0.1, ge=0, description="weight of a lesson that the model knows")
    learn_above: float = Field(0.5, ge=0, le=1, description="conflict rate from which a document is learnt at once")
    max_backlog: int = Field(20, ge=1, description="updates that wait for the learner while no document is begun")
    min_lessons: int = Field(4, ge=1, description="a document with fewer supported lessons is quarantined")
    batch: int = Field(1, ge=1, description="documents that are learnt together, in one shard, if so many wait")
    least_probes: int = Field(5, ge=0, description="questions held back for the gate, below which it waits for others")
    oldest_seconds: float = Field(600.0, ge=0, description="after which a document no longer waits for others")
    cooldown_seconds: float = Field(
        0.0, ge=0, description="least time between two updates; a drift doesn't wait for it"
    )
    shadow: bool = Field(False, description="whether documents are studied and decided on, but no update is asked for")

    @model_validator(mode="after")
    def _alpha_over_beta(self) -> "ConsumerSettings":
        if self.beta >= self.alpha:
            raise ValueError("beta must be smaller than alpha: known facts weigh less than conflicting ones (eq. 2)")
        return self


Detector = Literal["ADWIN", "KSWIN", "PageHinkley", "DDM", "HDDM_A", "HDDM_W"]


class DriftSettings(Section):
    """River's detectors over conflict, standardised answer NLL and distance; DDM and HDDM watch conflict alone."""

    detectors: tuple[Detector, ...] = Field(("ADWIN", "HDDM_W"), min_length=1)
    rule: Literal["any", "majority", "all"] = Field("any", description="how many of a signal's detectors have to vote")
    votes_last: int = Field(50, ge=0, description="documents that a vote counts for while the others are awaited")
    delta: float = Field(0.05, gt=0, lt=1, description="ADWIN's confidence")
    clock: int = Field(1, ge=1, description="ADWIN looks at every n-th document")
    reference: int = Field(50, ge=2, description="documents whose mean embedding the distance is taken from")
    remember: int = Field(5000, ge=100, description="signal values of a partition replayed after a restart")


Method = Literal["prompt_distillation", "interact", "yoda", "ensemble", "reflection", "by_teaching"]


class LearnerSettings(Section):
    """One micro-update: its methods, what they may spend, the shape of a shard and how it is trained."""

    methods: tuple[Method, ...] = Field(
        ("prompt_distillation",), min_length=1, description="what makes the targets of an update, in this order"
    )
    snapshot_share: float = Field(
        0.5, ge=0, le=1, description="of the promoted model beside the reader as a teacher, for the method ensemble"
    )
    budget_seconds: float = Field(600.0, ge=0, description="what the methods of an update may take; 0: no bound")
    budget_tokens: int = Field(0, ge=0, description="what they may have models write; 0: no bound")
    budget_teacher_calls: int = Field(0, ge=0, description="questions that they may put to the reader; 0: no bound")
    layers: tuple[int, ...] = (16, 20, 24)
    shared_rank: int = Field(14, ge=1, description="of the expert that every question of a shard goes through")
    expert_rank: int = Field(2, ge=0, description="of each answer's own expert; 0: the shared one answers alone")
    learning_rate: float = Field(4e-3, gt=0)
    steps: int = Field(30, ge=1, description="of an update, besides those for its facts")
    steps_a_fact: float = Field(3.0, ge=0, description="steps for each fact")
    rounds: int = Field(
        1,
        ge=1,
        description="that the steps are divided into; in each the methods look at what the student knows by then",
    )
    broken: int = Field(0, ge=0, description="copies of a question with words left out that are trained beside it")
    distil: bool = Field(True, description="whether the reader's distributions are trained towards, or answers alone")
    lessons_a_step: int = Field(8, ge=1)
    general_a_step: int = Field(4, ge=0, description="general prompts held to the base model by KL")
    seed: int = 0

    @model_validator(mode="after")
    def _something_to_reflect_on(self) -> "LearnerSettings":
        if "reflection" in self.methods and self.rounds < 2:
            raise ValueError("reflection looks back at a first round: set rounds to 2 or more")
        return self


class GateSettings(Section):
    """When a candidate is promoted. Names of the statistics are explained in gate/statistics.py."""

    margin: float = Field(0.05, gt=0, lt=1, description="the largest tolerable decline, as a share")
    significance: float = Field(0.05, gt=0, lt=1)
    tau: float = Field(0.6, ge=0, le=1, description="least committee score (eq. 8)")
    min_gain: float = Field(0.2, ge=0, le=1, description="least gain on the new documents' probes")
    general_anchors: int = Field(160, ge=1)
    retention_anchors: int = Field(200, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(8010, ge=0, le=65535)


class ServingSettings(Section):
    """The OpenAI-compatible address, and what stands behind it."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    vllm: tuple[str, ...] = Field((), description="base addresses of vLLM replicas; none: the embedded engine")
    vllm_key: str = Field("", repr=False)
    max_batch: int = Field(16, ge=1)
    max_queue: int = Field(256, ge=1)
    max_new_tokens: int = Field(512, ge=1)


class TelemetrySettings(Section):
    """Logs and metrics. Every stage that runs alone answers /metrics and /healthz on the metrics port."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    metrics_port: int = Field(9108, ge=0, le=65535)


class SecuritySettings(Section):
    """The token that state-changing HTTP calls must bring; empty: they are refused."""

    token: str = Field("", repr=False)


class Settings(Section):
    """All settings, and the home folder that holds an embedded run's state."""

    home: Path
    model: ModelSettings = ModelSettings()
    study: StudySettings = StudySettings()
    kafka: KafkaSettings = KafkaSettings()
    storage: StorageSettings = StorageSettings()
    consumer: ConsumerSettings = ConsumerSettings()
    drift: DriftSettings = DriftSettings()
    learner: LearnerSettings = LearnerSettings()
    gate: GateSettings = GateSettings()
    serving: ServingSettings = ServingSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    security: SecuritySettings = SecuritySettings()

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL."""
        return self.storage.ledger or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def artifacts_url(self) -> str:
        """Where weights and manifests are kept."""
        return self.storage.artifacts or str(self.home / "artifacts")


def default_home() -> Path:
    """`$LMT2_HOME`, else `.lmt2` in the user's home folder."""
    return Path(os.environ.get("LMT2_HOME") or Path.home() / ".lmt2").expanduser().absolute()


def load(home: Path | None = None, file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from defaults, file (`--config`, `$LMT2_CONFIG`, else `HOME/lmt2.toml` if there) and environment.

    Raises:
        ConfigError: a key doesn't exist or a value doesn't fit; the message names it and where it came from.
    """
    environment = os.environ if environment is None else environment
    home = home or default_home()
    chosen = file or (Path(environment["LMT2_CONFIG"]) if environment.get("LMT2_CONFIG") else None)
    path = chosen or home / "lmt2.toml"
    tables = _read_file(path, required=chosen is not None)
    variables = _read_environment(environment)
    for (section, key), value in variables.items():
        tables.setdefault(section, {})[key] = value
    try:
        return Settings.model_validate({"home": home, **tables})
    except ValidationError as error:
        places: dict[tuple[str, ...], str] = {at: f"LMT2_{'_'.join(at)}".upper() for at in variables}
        found = [(tuple(map(str, e["loc"])), e["msg"]) for e in error.errors(include_url=False)]
        reasons = [f"{'.'.join(at)}: {reason} (in {places.get(at[:2], path)})" for at, reason in found]
        raise ConfigError("; ".join(reasons)) from error


def _read_file(path: Path, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise ConfigError(f"there is no configuration file {path}")
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{name}: {path} holds tables only, such as [gate]; the home folder is --home or LMT2_HOME"
            )
    return tables


def _read_environment(environment: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    known = {
        f"LMT2_{section}_{key}".upper(): (section, key)
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields
    }
    values = {}
    for name, text in environment.items():
        if not name.startswith("LMT2_") or name in OUTSIDE or name.startswith("LMT2_TEST_"):
            continue
        if name not in known:
            raise ConfigError(f"the environment variable {name} names no setting; see docs/configuration.md")
        section, key = known[name]
        values[known[name]] = _split_if_tuple(section, key, text)
    return values


def _split_if_tuple(section: str, key: str, text: str) -> Any:
    annotation = Settings.model_fields[section].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    is_tuple = getattr(annotation.model_fields[key].annotation, "__origin__", None) is tuple
    return [part.strip() for part in text.split(",") if part.strip()] if is_tuple else text
