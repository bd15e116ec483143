"""The admission webhook, called by a real API server."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from hack.cluster import ControlPlane
from seedbed.crds.base import API_VERSION
from tests.clusters import (
    read,
    refusal,
    seedbed_control_plane,
    serve_webhook_from_here,
)
from tests.operators import Operator, operators, until
from tests.servers import EtcdServer, NatsServer, free_port

SYSTEM = "seedbed-system"
NAME = "seedbed-webhook"
SECRET = "seedbed-webhook-tls"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    with seedbed_control_plane() as found:
        found.kubectl("create", "namespace", SYSTEM)
        yield found


@pytest.fixture
def serving(
    cluster: ControlPlane,
    etcd_server: EtcdServer,
    nats_server: NatsServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Operator]]:
    """Two operators, of which the API server calls the second, which does not lead."""
    ports = [free_port(), free_port()]
    settings = {
        "SEEDBED_WEBHOOK_ENABLED": "true",
        "SEEDBED_WEBHOOK_SERVICE": NAME,
        "SEEDBED_WEBHOOK_SECRET": SECRET,
        "SEEDBED_WEBHOOK_CONFIGURATION": "seedbed",
        "POD_NAMESPACE": SYSTEM,
    }
    serve_webhook_from_here(cluster, SYSTEM, NAME, ports[1])
    folder = tmp_path_factory.mktemp("operators")
    servers = (cluster, etcd_server, nats_server, folder)
    own, other = ({**settings, "SEEDBED_WEBHOOK_PORT": str(port)} for port in ports)
    with (
        operators(*servers, "one", settings=own) as first,
        operators(*servers, "two", settings=other, led=False) as second,
    ):
        until(lambda: all(one.metrics() for one in (*first, *second)), "two operators")
        yield [*first, *second]
    cluster.kubectl("delete", "validatingwebhookconfiguration", "seedbed")


def workflow(name: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"steps": list(steps)},
    }


def step(name: str, *needs: str) -> dict[str, Any]:
    return {"name": name, "call": {"entry": "builtins:dict"}, "needs": list(needs)}


def test_what_the_schema_cannot_see_is_refused_by_a_replica_that_does_not_lead(
    cluster: ControlPlane, serving: list[Operator]
) -> None:
    _, second = serving
    good = workflow(f"good-{secrets.token_hex(3)}", step("a"), step("b", "a"))
    until(lambda: refusal(cluster, good) == "", "admission that serves")
    assert not second.leads
    said = refusal(cluster, workflow("cyclic", step("a", "b"), step("b", "a")))
    assert "validate.seedbed.dev" in said
    assert "spec.steps" in said
    assert "a → b → a" in said or "b → a → b" in said or "cycle" in said
    said = refusal(cluster, workflow("unknown", step("a", "missing")))
    assert "spec.steps[0].needs" in said
    assert "cyclic" not in cluster.kubectl("get", "workflows", "-n", "default")


def test_the_replicas_share_one_certificate_and_the_server_trusts_its_authority(
    cluster: ControlPlane, serving: list[Operator]
) -> None:
    until(lambda: refusal(cluster, workflow("fine", step("a"))) == "", "admission that serves")
    secret = read(cluster, "secret", SECRET, "-n", SYSTEM)
    (hook,) = read(cluster, "validatingwebhookconfiguration", "seedbed")["webhooks"]
    bundle = base64.b64decode(hook["clientConfig"]["caBundle"]).decode()
    assert bundle.startswith("-----BEGIN CERTIFICATE-----")
    assert "PRIVATE" not in bundle
    assert secret["data"]["tls.crt"]
    assert hook["failurePolicy"] == "Fail", "the operator changes nothing but the bundle"
