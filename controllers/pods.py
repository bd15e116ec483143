"""What every pod that Seedbed makes has in common: the `restricted` Pod Security Standard, ownership."""

from __future__ import annotations

from typing import Any

from seedbed.controllers.plan import Key, Raw
from seedbed.crds.base import API_VERSION, GROUP

USER = 65532
POOL_LABEL = f"{GROUP}/pool"
WORKFLOW_LABEL = f"{GROUP}/workflow"
SEEDS_LABEL = f"{GROUP}/seed-layer"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MANAGED_BY = {"app.kubernetes.io/managed-by": "seedbed", "app.kubernetes.io/part-of": "seedbed"}

POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# The root file system is read-only; /tmp is the one place a program may write to.
SCRATCH_VOLUME: dict[str, Any] = {"name": "tmp", "emptyDir": {}}
SCRATCH_MOUNT: dict[str, Any] = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108  # of the pod


def owner_reference(owner: Raw) -> dict[str, Any]:
    """The reference by which Kubernetes deletes a child with its owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def queue_labels(owner: Raw) -> dict[str, str]:
    """The label that hands a child to Kueue, where the owner carries it."""
    labels = owner["metadata"].get("labels") or {}
    return {QUEUE_LABEL: labels[QUEUE_LABEL]} if QUEUE_LABEL in labels else {}


def key_of(obj: Raw) -> Key:
    """The key of an object."""
    metadata = obj["metadata"]
    return Key(obj["kind"], metadata.get("namespace", ""), metadata["name"])
