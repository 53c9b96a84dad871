"""The gate over HTTP: who may roll back, what can be read, and a console that needs nothing from outside."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from gate.app import create_app
from lmt2.config import SecuritySettings, Settings
from lmt2.ledger import Ledger, desired_version
from lmt2.telemetry import gate_decisions_total
from memory.versions import untouched
from tests.support.gate import decided, new_ledger

BASE = untouched("b" * 64)
RIGHT = {"Authorization": "Bearer correct horse"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = new_ledger(tmp_path, BASE)
    yield made
    made.close()


def client(ledger: Ledger, tmp_path: Path, token: str = "correct horse") -> TestClient:
    return TestClient(create_app(Settings(home=tmp_path, security=SecuritySettings(token=token)), ledger))


def served(ledger: Ledger) -> str | None:
    with ledger.begin() as session:
        return desired_version(session)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "correct horse"}, {"Authorization": "Bearer "}],
)
def test_rollback_wants_the_token(ledger: Ledger, tmp_path: Path, headers: dict[str, str]) -> None:
    one = decided(ledger, BASE, "one")
    assert client(ledger, tmp_path).post("/v1/rollback", headers=headers).status_code == 401
    assert served(ledger) == one.id


def test_rollback_is_off_without_a_configured_token(ledger: Ledger, tmp_path: Path) -> None:
    one = decided(ledger, BASE, "one")
    answer = client(ledger, tmp_path, token="").post("/v1/rollback", headers={"Authorization": "Bearer "})
    assert answer.status_code == 403
    assert "LMT2_SECURITY_TOKEN" in answer.text
    assert served(ledger) == one.id


def test_rollback_with_the_token(ledger: Ledger, tmp_path: Path) -> None:
    one = decided(ledger, BASE, "one")
    two = decided(ledger, one, "two")
    http = client(ledger, tmp_path)
    assert http.post("/v1/rollback", headers=RIGHT).json() == {"version": one.id}
    assert served(ledger) == one.id
    assert http.post("/v1/rollback", headers=RIGHT, json={"version": two.id}).json() == {"version": two.id}
    assert served(ledger) == two.id


def test_rollback_that_cannot_be(ledger: Ledger, tmp_path: Path) -> None:
    one = decided(ledger, BASE, "one")
    bad = decided(ledger, one, "bad", "reject")
    http = client(ledger, tmp_path)
    for body, status in (({"version": "v-none"}, 404), ({"version": bad.id}, 409), ({"versoin": one.id}, 422)):
        assert http.post("/v1/rollback", headers=RIGHT, json=body).status_code == status
    assert served(ledger) == one.id


def test_reading(ledger: Ledger, tmp_path: Path) -> None:
    one = decided(ledger, BASE, "one")
    bad = decided(ledger, one, "bad", "reject")
    http = client(ledger, tmp_path)
    assert http.get("/healthz").json() == {"status": "ok"}
    gate_decisions_total.labels("accept", "accepted").inc()
    assert 'lmt2_gate_decisions_total{reason="accepted",verdict="accept"}' in http.get("/metrics").text
    assert {v["id"]: v["state"] for v in http.get("/v1/versions").json()} == {
        BASE.id: "accepted",
        one.id: "accepted",
        bad.id: "rejected",
    }
    assert {d["version"]: d["verdict"] for d in http.get("/v1/decisions").json()} == {
        one.id: "accept",
        bad.id: "reject",
    }
    status = http.get("/v1/status").json()
    assert (status["version"], status["documents"]) == (one.id, {"learnt": 1, "rejected": 1})
    assert http.get(f"/v1/versions/{one.id}").json()["shards"][0]["documents"][0]["id"] == "doc-one"
    assert http.get("/v1/versions/v-none").status_code == 404


def test_the_console_needs_nothing_from_outside_and_writes_only_text(ledger: Ledger, tmp_path: Path) -> None:
    answer = client(ledger, tmp_path).get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert '<html lang="en">' in answer.text
    assert not re.search(r"https?://|<script src|<link rel=\"stylesheet|innerHTML|document\.write", answer.text)
    assert ".textContent" in answer.text
