"""The alerts, run by promtool on the very rules that are deployed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from lmt2 import telemetry
from tests.support.parts import program

K8S = Path(__file__).parents[2] / "k8s"
RULE = K8S / "alerts" / "prometheusrule.yaml"
DASHBOARD = K8S / "dashboards" / "lmt2.json"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The groups of the PrometheusRule as a rules file for promtool, with its tests beside it."""
    extracted = tmp_path / "rules.yaml"
    extracted.write_text(yaml.safe_dump(yaml.safe_load(RULE.read_text())["spec"]), encoding="utf-8")
    shutil.copy(K8S / "alerts" / "tests.yaml", tmp_path)
    return extracted


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    tool = program("promtool", "run scripts/prometheus.sh")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)


def test_prometheus_accepts_the_rules(rules: Path) -> None:
    checked = promtool("check", "rules", rules)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_fire_when_they_should_and_only_then(rules: Path) -> None:
    tested = promtool("test", "rules", rules.parent / "tests.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_rule_that_never_fires_is_noticed(rules: Path) -> None:
    rules.write_text(rules.read_text().replace("> 100", "> 1e9"))
    assert promtool("test", "rules", rules.parent / "tests.yaml").returncode != 0


def test_every_alert_has_a_case_that_fires_and_one_that_must_not() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(RULE.read_text())["spec"]["groups"] for rule in group["rules"]}
    cases = [
        case
        for test in yaml.safe_load((K8S / "alerts" / "tests.yaml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


@pytest.mark.parametrize("file", [RULE, DASHBOARD], ids=["alerts", "dashboard"])
def test_only_metrics_that_exist_are_asked_for(file: Path) -> None:
    asked = set(re.findall(r"\blmt2_[a-z_]+", " ".join(expressions(yaml.safe_load(file.read_text())))))
    assert asked <= exported(), f"unknown: {asked - exported()}"


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(expressions(yaml.safe_load(DASHBOARD.read_text())))
    assert not [name for name in metrics() if name not in shown]


def expressions(node: Any) -> list[str]:
    """All PromQL in a document."""
    if isinstance(node, dict):
        found = [node["expr"]] if isinstance(node.get("expr"), str) else []
        return found + [text for value in node.values() for text in expressions(value)]
    return [text for value in node for text in expressions(value)] if isinstance(node, list) else []


def metrics() -> list[str]:
    """The names of our metrics, without the suffixes of their samples."""
    collectors = [value for value in vars(telemetry).values() if isinstance(value, MetricWrapperBase)]
    return [family.name for collector in collectors for family in collector.describe()]


def exported() -> set[str]:
    """The names of the samples that /metrics may show."""
    suffixes = ("", "_total", "_bucket", "_sum", "_count")
    return {name + suffix for name in metrics() for suffix in suffixes}
