"""The chart: what it renders, and what its schema refuses. Needs helm; no cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import binaries
from seedbed.cli.event_settings import EventsSetting, read_events

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "seedbed"
LOCAL = ROOT / "hack" / "cluster" / "values-local.yaml"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(binaries.path("helm")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def render(*arguments: str) -> list[dict[str, Any]]:
    done = helm("template", "seedbed", str(CHART), "--namespace", "seedbed-system", *arguments)
    assert done.returncode == 0, done.stderr
    return [obj for obj in yaml.safe_load_all(done.stdout) if obj]


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for obj in objects:
        if obj["kind"] == "Pod":
            found[obj["metadata"]["name"]] = obj["spec"]
        elif obj["kind"] in ("Deployment", "StatefulSet"):
            found[obj["metadata"]["name"]] = obj["spec"]["template"]["spec"]
    return found


def names(objects: list[dict[str, Any]], kind: str) -> set[str]:
    return {obj["metadata"]["name"] for obj in objects if obj["kind"] == kind}


@pytest.mark.parametrize("values", [[], ["--values", str(LOCAL)]], ids=["default", "local"])
def test_lint(values: list[str]) -> None:
    done = helm("lint", "--strict", str(CHART), *values)
    assert done.returncode == 0, done.stdout


@pytest.mark.req("COG-S4.1")
def test_every_role_is_a_deployment_of_its_own_and_can_be_reached() -> None:
    objects = render()
    roles = {"operator", "engine", "gateway", "api"}
    assert names(objects, "Deployment") == {f"seedbed-{role}" for role in roles}
    assert {"seedbed-gateway", "seedbed-api"} <= names(objects, "Service")
    images = {
        pod["containers"][0]["image"]
        for name, pod in pods(objects).items()
        if name.removeprefix("seedbed-") in roles
    }
    assert len(images) == 1


def test_two_operators_with_a_disruption_budget() -> None:
    objects = render()
    (operator,) = [
        o
        for o in objects
        if o["metadata"]["name"] == "seedbed-operator" and o["kind"] == "Deployment"
    ]
    assert operator["spec"]["replicas"] == 2
    assert "seedbed-operator" in names(objects, "PodDisruptionBudget")
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    probe = container["readinessProbe"]
    # A replica that hangs leaves the webhook's Service this soon; the install guide says so.
    assert probe["periodSeconds"] + probe["failureThreshold"] * probe["timeoutSeconds"] <= 6


def test_every_pod_meets_the_restricted_standard_and_asks_for_resources() -> None:
    for name, pod in pods(render()).items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name


def test_rights_name_every_verb_and_resource() -> None:
    for obj in render():
        if obj["kind"] in ("ClusterRole", "Role"):
            for rule in obj["rules"]:
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]


def test_kubernetes_own_roles_cover_the_kinds() -> None:
    def aggregated(*values: str) -> dict[str, list[dict[str, Any]]]:
        mark = "rbac.authorization.k8s.io/aggregate-to-"
        return {
            label.removeprefix(mark): obj["rules"]
            for obj in render(*values)
            for label in obj["metadata"].get("labels") or {}
            if obj["kind"] == "ClusterRole" and label.startswith(mark)
        }

    found = aggregated()
    assert set(found) == {"view", "edit"}
    kinds = {"pools", "agents", "workflows", "featureflags", "seedlayers"}
    for rules in found.values():
        assert set(rules[0]["resources"]) == kinds
    assert set(found["view"][0]["verbs"]) == {"get", "list", "watch"}
    assert not aggregated("--set", "userRoles.aggregate=false")


def test_only_who_asks_the_api_server_holds_a_token() -> None:
    holders = {
        name for name, pod in pods(render()).items() if pod.get("automountServiceAccountToken")
    }
    assert holders == {"seedbed-operator", "seedbed-api", "seedbed-gateway"}


@pytest.mark.req("COG-S5.2")
@pytest.mark.parametrize(
    ("server", "value"),
    [
        ("etcd", "etcd.external.endpoint=etcd.example:2379"),
        ("nats", "nats.external.url=nats://nats.example:4222"),
        ("postgres", "postgres.external.url=postgresql+asyncpg://u@db.example:5432/x"),
    ],
)
def test_an_external_server_replaces_the_bundled_one(server: str, value: str) -> None:
    objects = render("--set", value, "--set", "postgres.external.passwordSecret.name=db")
    assert f"seedbed-{server}" not in names(objects, "StatefulSet")
    assert value.split("=", 1)[1] in yaml.safe_dump(objects)


def test_an_external_database_needs_a_password_secret() -> None:
    done = helm(
        "template", "x", str(CHART), "--set", "postgres.external.url=postgresql+asyncpg://u@h:1/x"
    )
    assert done.returncode != 0
    assert "postgres.external.passwordSecret.name is needed" in done.stderr


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("operator.replicas=many", "/operator/replicas"),
        ("webhook.failurePolicy=Maybe", "/webhook/failurePolicy"),
        ("logLevel=loud", "/logLevel"),
        ("gatewy.replicas=2", "gatewy"),
        ("nats.external.url=redis://x", "/nats/external/url"),
    ],
)
def test_a_wrong_value_is_refused_by_name(value: str, named: str) -> None:
    done = helm("template", "x", str(CHART), "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_kinds_stay_when_the_release_goes() -> None:
    crds = [obj for obj in render() if obj["kind"] == "CustomResourceDefinition"]
    assert {crd["spec"]["names"]["kind"] for crd in crds} == {
        "Pool",
        "Agent",
        "Workflow",
        "FeatureFlag",
        "SeedLayer",
    }
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in crds)
    without = render("--set", "crds.install=false")
    assert not names(without, "CustomResourceDefinition")


def test_data_that_is_kept_keeps_the_secrets_that_open_it() -> None:
    for kept in (False, True):
        objects = render("--set", f"keepDataOnUninstall={str(kept).lower()}")
        volumes = [o["spec"] for o in objects if o["kind"] == "StatefulSet"]
        whens = {one["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] for one in volumes}
        assert whens == {"Retain" if kept else "Delete"}
        secrets = {o["metadata"]["name"]: o["metadata"] for o in objects if o["kind"] == "Secret"}
        for name in ("seedbed-postgres", "seedbed-checkpoint-keys"):
            notes = secrets[name].get("annotations") or {}
            assert ("helm.sh/resource-policy" in notes) is kept, name


def test_everything_of_the_product_is_denied_but_the_named_arrows() -> None:
    policies = {o["metadata"]["name"]: o["spec"] for o in render() if o["kind"] == "NetworkPolicy"}
    deny = policies["seedbed-default-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert [p["port"] for p in policies["seedbed-engine-to-postgres"]["egress"][0]["ports"]] == [
        5432
    ]
    assert "seedbed-operator-to-postgres" not in policies


def test_metrics_are_for_whom_the_values_name(tmp_path: Path) -> None:
    def who(*more: str) -> Any:
        objects = render(*more)
        found = next(o for o in objects if o["metadata"]["name"] == "seedbed-to-metrics")
        [rule] = found["spec"]["ingress"]
        assert rule["ports"] == [{"port": 8080}]
        return rule.get("from")

    space = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert who() == [{"namespaceSelector": space}]
    theirs = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "vmagent"}}}]
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"networkPolicies": {"metricsFrom": theirs}}))
    assert who("--values", str(path)) == theirs
    path.write_text(yaml.safe_dump({"networkPolicies": {"metricsFrom": []}}))
    assert who("--values", str(path)) is None
    services = [o for o in render() if o["kind"] == "Service"]
    ports = [port["port"] for o in services for port in o["spec"]["ports"]]
    assert 8080 not in ports, "no Service leads to it"


def egress_ports(policies: dict[str, Any], name: str) -> list[int]:
    return [one["port"] for one in policies[f"seedbed-{name}"]["egress"][0]["ports"]]


def test_servers_and_models_elsewhere_are_reached_at_their_own_ports(tmp_path: Path) -> None:
    base = {"provider": "openai", "model": "m"}
    values = {
        "etcd": {"external": {"endpoint": "etcd.example:12379"}},
        "nats": {"external": {"url": "nats://nats.example"}},
        "postgres": {
            "external": {
                "url": "postgresql+asyncpg://u@db.example:6432/x",
                "passwordSecret": {"name": "db"},
            }
        },
        "gateway": {
            "default": "own",
            "models": [
                {**base, "name": "own", "apiBase": "http://vllm.models.svc:8000/v1"},
                {**base, "name": "plain", "apiBase": "http://vllm.models.svc/v1"},
            ],
        },
        "networkPolicies": {"apiServerPorts": [16443], "providerPorts": [9000]},
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    objects = render("--values", str(file))
    policies = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
    assert egress_ports(policies, "engine-to-etcd") == [12379]
    assert egress_ports(policies, "engine-to-nats") == [4222]
    assert egress_ports(policies, "engine-to-postgres") == [6432]
    assert egress_ports(policies, "operator") == [16443]
    assert egress_ports(policies, "gateway-to-providers") == [443, 16443, 8000, 80, 9000]


def test_cert_manager_replaces_the_own_certificate() -> None:
    objects = render("--set", "webhook.certManager.enabled=true")
    assert "seedbed-webhook" in names(objects, "Certificate")
    assert not names(objects, "Role")
    (hook,) = [o for o in objects if o["kind"] == "ValidatingWebhookConfiguration"]
    assert "cert-manager.io/inject-ca-from" in hook["metadata"]["annotations"]


def test_one_switch_makes_the_standard_pools() -> None:
    assert "seedbed-standard-pools" not in names(render(), "Job")
    objects = render("--set", "standardPools.create=true,standardPools.namespace=team")
    (job,) = [o for o in objects if o["kind"] == "Job"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "init",
        "--namespace",
        "team",
    ]
    (role,) = [
        o
        for o in objects
        if o["kind"] == "Role" and o["metadata"]["name"] == "seedbed-standard-pools"
    ]
    assert role["metadata"]["namespace"] == "team"
    assert role["rules"] == [
        {"apiGroups": ["seedbed.dev"], "resources": ["pools"], "verbs": ["create"]}
    ]


def test_the_event_log_is_as_the_values_say() -> None:
    objects = render("--set", "nats.events.keep.low.sizeMiB=7")
    for role in ("engine", "api", "operator"):
        env = pods(objects)[f"seedbed-{role}"]["containers"][0]["env"]
        text = next(one["value"] for one in env if one["name"] == "SEEDBED_EVENTS")
        assert read_events(text).keep.low.sizeMiB == 7
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert read_events(json.dumps(values["nats"]["events"])) == EventsSetting()
    refused = helm("lint", str(CHART), "--set", "nats.events.overflow=Spill")
    assert refused.returncode != 0
