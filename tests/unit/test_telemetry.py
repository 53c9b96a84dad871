import json
from collections.abc import Iterator

import pytest
import structlog

from lmt2.config import TelemetrySettings
from lmt2.telemetry import configure_logging, logger


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def log_a_failure() -> None:
    password = "s3cret"
    try:
        raise RuntimeError(f"no connection with {len(password)} letters")
    except RuntimeError:
        logger("gate").exception("failed", place="topic[0]@1")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_local_variables(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logging(TelemetrySettings.model_validate({"log_format": log_format}))
    log_a_failure()
    lines = capsys.readouterr().err
    assert "no connection with 6 letters" in lines
    assert "topic[0]@1" in lines
    assert "s3cret" not in lines.replace('password = "s3cret"', "")


def test_json_logs_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(TelemetrySettings(log_format="json", log_level="warning"))
    logger("gate").info("unheard")
    logger("gate").warning("dead letter", place="topic[0]@1")
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert (fields["event"], fields["stage"], fields["level"]) == ("dead letter", "gate", "warning")
    assert "timestamp" in fields
