"""The Deployment of worker pods that a Pool owns."""

from __future__ import annotations

import math
from typing import Any

from seedbed.controllers.plan import Defaults, Raw
from seedbed.controllers.pods import (
    CONTAINER_SECURITY,
    MANAGED_BY,
    POD_SECURITY,
    POOL_LABEL,
    SCRATCH_MOUNT,
    SCRATCH_VOLUME,
    owner_reference,
    queue_labels,
)
from seedbed.crds.base import seconds
from seedbed.crds.pod import PodSettings
from seedbed.crds.pool import PoolSpec

HEALTH_PORT = 8080
# Seconds that a worker needs after its drain to give back what it holds and to sign off.
_FAREWELL = 5

# Tells the model service whose worker this is; it is good for nothing else.
_TOKEN_VOLUME: dict[str, Any] = {
    "name": "gateway-token",
    "projected": {
        "sources": [
            {
                "serviceAccountToken": {
                    "audience": "seedbed-gateway",
                    "expirationSeconds": 3600,
                    "path": "token",
                }
            }
        ]
    },
}
_TOKEN_MOUNT: dict[str, Any] = {
    "name": "gateway-token",
    "mountPath": "/var/run/secrets/seedbed/gateway",
    "readOnly": True,
}


def deployment_name(pool: str) -> str:
    """Name of the Deployment of a Pool."""
    return f"{pool}-workers"


def selector_of(pool: str) -> dict[str, str]:
    """Labels that select the pods of a Pool."""
    return {POOL_LABEL: pool}


def worker_deployment(pool: Raw, spec: PoolSpec, defaults: Defaults) -> dict[str, Any]:
    """The Deployment of a Pool as it should be.

    Args:
        pool: the Pool as the API server holds it; becomes the owner.
        spec: its spec, read.
        defaults: image and connections of the workers.
    """
    name = pool["metadata"]["name"]
    labels = {**MANAGED_BY, "app.kubernetes.io/name": "seedbed-worker", **selector_of(name)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(name),
            "namespace": pool["metadata"]["namespace"],
            "labels": {**labels, **queue_labels(pool)},
            "ownerReferences": [owner_reference(pool)],
        },
        "spec": {
            "replicas": 0 if spec.suspend else spec.replicas,
            "selector": {"matchLabels": selector_of(name)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(pool["metadata"], spec, defaults),
            },
        },
    }


def _pod(metadata: Raw, spec: PoolSpec, defaults: Defaults) -> dict[str, Any]:
    template = spec.template
    pod: dict[str, Any] = {
        "serviceAccountName": template.service_account_name or defaults.worker_service_account,
        "enableServiceLinks": False,  # they would set variables named like settings of ours
        "automountServiceAccountToken": template.service_account_name is not None,
        "terminationGracePeriodSeconds": math.ceil(seconds(spec.drain)) + _FAREWELL,
        "securityContext": POD_SECURITY,
        "containers": [_container(metadata, spec, defaults)],
        "volumes": [SCRATCH_VOLUME, _TOKEN_VOLUME],
    }
    return pod | passed_through(template)


def passed_through(template: PodSettings) -> dict[str, Any]:
    """The fields of a pod that are the user's own."""
    said = {
        "nodeSelector": template.node_selector,
        "tolerations": list(template.tolerations),
        "topologySpreadConstraints": list(template.topology_spread_constraints),
        "resourceClaims": list(template.resource_claims),
        "priorityClassName": template.priority_class_name,
    }
    return {name: value for name, value in said.items() if value}


def _container(metadata: Raw, spec: PoolSpec, defaults: Defaults) -> dict[str, Any]:
    template = spec.template
    container: dict[str, Any] = {
        "name": "worker",
        "image": template.image or defaults.image,
        "imagePullPolicy": template.image_pull_policy or defaults.image_pull_policy,
        "args": ["serve", "worker"],
        "env": _environment(metadata, spec, defaults),
        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "startupProbe": probe("/healthz", period=2, failures=60),
        "livenessProbe": probe("/healthz", period=10, failures=3),
        "readinessProbe": probe("/readyz", period=2, failures=2),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [SCRATCH_MOUNT, _TOKEN_MOUNT],
    }
    if template.resources:
        container["resources"] = template.resources
    return container


def _environment(metadata: Raw, spec: PoolSpec, defaults: Defaults) -> list[dict[str, Any]]:
    """What connects a worker; the user's own variables may not override what makes it one of ours."""
    mine: list[dict[str, Any]] = [
        {"name": "SEEDBED_NAMESPACE", "value": metadata["namespace"]},
        {"name": "SEEDBED_POOL", "value": metadata["name"]},
        {"name": "SEEDBED_WORKERS", "value": str(spec.workers_per_replica)},
        {"name": "SEEDBED_CONCURRENCY", "value": str(spec.concurrency)},
        {"name": "SEEDBED_ADAPTER", "value": spec.adapter},
        {"name": "SEEDBED_DRAIN", "value": spec.drain},
        *(dict(variable) for variable in defaults.environment),
    ]
    taken = {variable["name"] for variable in mine}
    return [*mine, *(dict(one) for one in spec.template.env if one.get("name") not in taken)]


def probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    """A probe of the port that tells a pod's health."""
    return {
        "httpGet": {"path": path, "port": "health", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }
