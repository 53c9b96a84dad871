"""The manifests: they render, every object fits its schema, and the application accepts what they configure."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import ValidationError

from lmt2.config import load
from lmt2.models.assets import cache_folder
from tests.support.crds import custom_schemas, validate_custom
from tests.support.parts import program

K8S = Path(__file__).parents[2] / "k8s"
KUBERNETES = "1.31"
STAGES = {"consumer", "learner", "gate", "serve"}
Resource = dict[str, Any]


def render(folder: str) -> list[Resource]:
    kustomize = shutil.which("kustomize", path=str(cache_folder() / "bin")) or shutil.which("kustomize")
    kubectl = program("kubectl", "run scripts/kustomize.sh") if kustomize is None else Path()
    command = [kustomize, "build"] if kustomize else [kubectl, "kustomize"]
    rendered = subprocess.run([*command, K8S / folder], capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


@pytest.fixture(scope="module", params=["base", "overlays/dev", "overlays/gpu"])
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return render(request.param)


def pods(resources: list[Resource]) -> list[tuple[str, Resource]]:
    return [
        (one["metadata"]["name"], one["spec"]["template"]["spec"])
        for one in resources
        if one["kind"] in ("Deployment", "StatefulSet")
    ]


def test_every_object_fits_its_schema(resources: list[Resource]) -> None:
    custom = custom_schemas()
    for resource in resources:
        if schema := custom.get((resource["apiVersion"], resource["kind"])):
            validate_custom(resource, schema)
        else:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["podmonitor.yaml", "prometheusrule.yaml"])
def test_a_misspelt_field_of_a_custom_resource_is_noticed(name: str) -> None:
    resource = yaml.safe_load((K8S / "alerts" / name).read_text())
    schema = custom_schemas()[resource["apiVersion"], resource["kind"]]
    resource["spec"]["grops"] = []
    with pytest.raises(ValidationError, match="grops"):
        validate_custom(resource, schema)


def test_every_stage_runs() -> None:
    assert {pod["containers"][0]["args"][0] for _, pod in pods(render("base"))} == STAGES


def test_every_setting_is_one_that_the_application_knows(resources: list[Resource], tmp_path: Path) -> None:
    shared = [one["data"] for one in resources if one["kind"] == "ConfigMap" and "LMT2_KAFKA_BOOTSTRAP" in one["data"]]
    for _, pod in pods(resources):
        environment = {entry["name"]: entry.get("value", "secret") for entry in pod["containers"][0].get("env", ())}
        load(tmp_path, environment={**{k: v for data in shared for k, v in data.items()}, **environment})


def test_no_pod_takes_a_service_for_a_setting(resources: list[Resource]) -> None:
    assert [name for name, pod in pods(resources) if pod["enableServiceLinks"]] == []


def test_pods_run_without_privileges(resources: list[Resource]) -> None:
    for name, pod in pods(resources):
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name


def test_probes_and_services_point_at_ports_that_exist(resources: list[Resource]) -> None:
    for name, pod in pods(resources):
        ports = {port["name"] for container in pod["containers"] for port in container["ports"]}
        probes = [
            container[f"{kind}Probe"]
            for container in pod["containers"]
            for kind in ("startup", "liveness", "readiness")
        ]
        assert {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes} <= ports, name


def test_volumes_and_secrets_are_declared(resources: list[Resource]) -> None:
    claims = {one["metadata"]["name"] for one in resources if one["kind"] == "PersistentVolumeClaim"}
    for name, pod in pods(resources):
        claimed = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
        assert claimed <= claims, name
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, name


def test_with_vllm_every_replica_has_an_address_of_its_own() -> None:
    resources = render("overlays/gpu")
    (vllm,) = [one for one in resources if one["kind"] == "StatefulSet"]
    (settings,) = [one["data"] for one in resources if "LMT2_SERVING_VLLM" in one.get("data", {})]
    name, service = vllm["metadata"]["name"], vllm["spec"]["serviceName"]
    expected = [f"http://{name}-{n}.{service}:8000" for n in range(vllm["spec"]["replicas"])]
    assert settings["LMT2_SERVING_VLLM"].split(",") == expected
