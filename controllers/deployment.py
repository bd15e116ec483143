"""The Deployment of worker pods that a Pool owns."""

from __future__ import annotations

import math
from typing import Any

from seedbed.controllers.objects import MANAGED_BY, POOL_LABEL, QUEUE_LABEL, owner_reference
from seedbed.controllers.plan import Defaults, Raw
from seedbed.crds.base import seconds
from seedbed.crds.pod import PodSettings
from seedbed.crds.pool import PoolSpec

HEALTH_PORT = 8080
USER = 65532


def name_of(pool: str) -> str:
    """Name of the Deployment of a Pool."""
    return f"seedbed-pool-{pool}"[:63].rstrip("-")


def worker_deployment(obj: Raw, spec: PoolSpec, defaults: Defaults) -> dict[str, Any]:
    """The worker pods of a Pool, under the restricted Pod Security Standard."""
    metadata = obj["metadata"]
    labels = {**MANAGED_BY, POOL_LABEL: metadata["name"]}
    if queue := (metadata.get("labels") or {}).get(QUEUE_LABEL):
        labels[QUEUE_LABEL] = queue
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name_of(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(obj)],
        },
        "spec": {
            "replicas": 0 if spec.suspend else spec.replicas,
            "selector": {"matchLabels": {POOL_LABEL: metadata["name"]}},
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(metadata["namespace"], metadata["name"], spec, defaults),
            },
        },
    }


def _pod(namespace: str, pool: str, spec: PoolSpec, defaults: Defaults) -> dict[str, Any]:
    template = spec.template
    account = template.service_account_name or defaults.worker_service_account
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": template.service_account_name is not None,
        "terminationGracePeriodSeconds": math.ceil(seconds(spec.drain)) + 10,
        "securityContext": pod_security(),
        "containers": [_container(namespace, pool, spec, defaults)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        **placement(template),
    }


def _container(namespace: str, pool: str, spec: PoolSpec, defaults: Defaults) -> dict[str, Any]:
    template = spec.template
    probe = {"port": HEALTH_PORT, "scheme": "HTTP"}
    own = {
        "SEEDBED_NAMESPACE": namespace,
        "SEEDBED_POOL": pool,
        "SEEDBED_WORKERS": str(spec.workers_per_replica),
        "SEEDBED_ADAPTER": spec.adapter,
        "SEEDBED_DRAIN": spec.drain,
    }
    return {
        "name": "worker",
        "image": template.image or defaults.image,
        "imagePullPolicy": template.image_pull_policy or defaults.image_pull_policy,
        "args": ["serve", "worker"],
        "env": [
            {
                "name": "POD_NAME",
                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
            },
            *({"name": name, "value": value} for name, value in own.items()),
            *(dict(each) for each in defaults.environment),
            *template.env,
        ],
        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": {"path": "/healthz", **probe},
            "periodSeconds": 1,
            "failureThreshold": 120,
        },
        "readinessProbe": {"httpGet": {"path": "/readyz", **probe}, "periodSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", **probe},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "securityContext": container_security(),
        "resources": template.resources,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 -- in the pod
    }


def pod_security() -> dict[str, Any]:
    """A pod's security context under the restricted standard."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """A container's security context under the restricted standard."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def placement(template: PodSettings) -> dict[str, Any]:
    """Fields that say where a pod may run; Kubernetes' own, passed through."""
    wanted: dict[str, Any] = {
        "nodeSelector": template.node_selector,
        "tolerations": list(template.tolerations),
        "topologySpreadConstraints": list(template.topology_spread_constraints),
        "resourceClaims": list(template.resource_claims),
        "priorityClassName": template.priority_class_name,
    }
    return {field: value for field, value in wanted.items() if value}
