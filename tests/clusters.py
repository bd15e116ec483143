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
