"""A real Kubernetes control plane for tests, with Seedbed's CRDs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hack.cluster import ClusterError, ControlPlane, control_plane

CRDS = Path(__file__).parents[1] / "charts/seedbed/files/crds"


@contextmanager
def seedbed_control_plane(*, controller_manager: bool = False) -> Iterator[ControlPlane]:
    """An API server that serves Seedbed's kinds. Nothing reconciles them, and no pod runs."""
    with control_plane(controller_manager=controller_manager) as cluster:
        install_crds(cluster)
        yield cluster


def install_crds(cluster: ControlPlane) -> None:
    """Apply the generated CRDs and wait until the server serves them."""
    cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def apply(cluster: ControlPlane, manifest: dict[str, Any], *options: str) -> str:
    """`kubectl apply` one object."""
    return cluster.kubectl("apply", "-f", "-", *options, stdin=json.dumps(manifest))


def refusal(cluster: ControlPlane, manifest: dict[str, Any], *options: str) -> str:
    """What kubectl says when the server refuses the object; empty where it takes it."""
    try:
        apply(cluster, manifest, *options)
    except ClusterError as error:
        return str(error)
    return ""


def read(cluster: ControlPlane, *what: str) -> dict[str, Any]:
    """`kubectl get -o json`."""
    found: dict[str, Any] = json.loads(cluster.kubectl("get", *what, "-o", "json"))
    return found


def serve_webhook_from_here(cluster: ControlPlane, namespace: str, service: str, port: int) -> None:
    """Have the API server ask an operator on a port of this machine about each object of ours."""
    # Without nodes there is no way to a Service but by its external name.
    spec = {"type": "ExternalName", "externalName": "localhost"}
    metadata = {"name": service, "namespace": namespace}
    apply(cluster, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    rule = {
        "apiGroups": ["seedbed.dev"],
        "apiVersions": ["v1alpha1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["pools", "agents", "workflows", "featureflags"],
    }
    webhook = {
        "name": "validate.seedbed.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 5,
        "failurePolicy": "Fail",
        "clientConfig": {"service": {**metadata, "path": "/validate", "port": port}},
        "rules": [rule],
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "seedbed"},
        "webhooks": [webhook],
    }
    apply(cluster, configuration)
