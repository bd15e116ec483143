"""The StatefulSet and the Service of a SeedLayer.

The pods have an identity: the first one trains, and each one's checkpoints stay its own. A new version
rolls out one pod after another; each ends with a checkpoint, and the next one goes on from it.

Pods that train together (`spec.distribution`) find each other by the names that a headless Service gives
them; the first one is the meeting point of torchrun's elastic launch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import orjson

from seedbed.controllers.deployment import HEALTH_PORT, passed_through, probe
from seedbed.controllers.plan import Defaults, Raw
from seedbed.controllers.pods import (
    CONTAINER_SECURITY,
    MANAGED_BY,
    POD_SECURITY,
    SCRATCH_MOUNT,
    SCRATCH_VOLUME,
    SEEDS_LABEL,
    owner_reference,
    queue_labels,
)
from seedbed.crds.base import GROUP, seconds
from seedbed.crds.seed_layer import Distribution, SeedLayerSpec

SERVE_PORT = 8000
RENDEZVOUS_PORT = 29400
CHECKPOINTS = "/var/lib/seedbed/seeds"
GPU = "nvidia.com/gpu"
# Seconds beside `drain` in which the pod signs off.
_FAREWELL = 8
# What a pod reads once, when it starts; the rest of the spec reaches it while it runs.
_AT_START = ("data", "volumes", "token_secret")


def pods_name(layer: str) -> str:
    """Name of the StatefulSet and of the Service of a SeedLayer."""
    return f"{layer}-seeds"


def peers_name(layer: str) -> str:
    """Name of the headless Service of pods that train together."""
    return f"{layer}-seed-peers"


def selector_of(layer: str) -> dict[str, str]:
    """Labels that select the pods of a SeedLayer."""
    return {SEEDS_LABEL: layer}


def address_of(namespace: str, layer: str) -> str:
    """Where the model is served inside the cluster."""
    return f"http://{pods_name(layer)}.{namespace}.svc:{SERVE_PORT}"


def services(layer: Raw, spec: SeedLayerSpec) -> Iterator[dict[str, Any]]:
    """The Service before the pods, and the one by which pods that train together find each other."""
    name = layer["metadata"]["name"]
    selector = selector_of(name)
    together = spec.distribution
    if together is not None:
        yield _peers(layer)
        if together.seeds == "sharded":
            # Only the first one can answer, with what the others give.
            selector |= {"statefulset.kubernetes.io/pod-name": f"{pods_name(name)}-0"}
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(layer),
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [
                {"name": "http", "port": SERVE_PORT, "targetPort": "http", "protocol": "TCP"}
            ],
        },
    }


def _peers(layer: Raw) -> dict[str, Any]:
    metadata = _metadata(layer)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata, "name": peers_name(layer["metadata"]["name"])},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            # They have to find each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": selector_of(layer["metadata"]["name"]),
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"}],
        },
    }


def stateful_set(layer: Raw, spec: SeedLayerSpec, defaults: Defaults) -> dict[str, Any]:
    """The StatefulSet as it should be.

    Args:
        layer: the SeedLayer as the API server holds it; becomes the owner.
        spec: its spec, read.
        defaults: image and connections of the pods.
    """
    metadata = _metadata(layer)
    name = layer["metadata"]["name"]
    wanted: dict[str, Any] = {
        "replicas": 0 if spec.suspend else spec.replicas,
        "serviceName": metadata["name"] if spec.distribution is None else peers_name(name),
        # Those that only serve need not wait for each other.
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": selector_of(name)},
        "updateStrategy": {"type": "RollingUpdate"},
        "template": {
            "metadata": {
                "labels": _labels(name),
                "annotations": {f"{GROUP}/start": _digest(spec)},
            },
            "spec": _pod(layer["metadata"], spec, defaults),
        },
    }
    if spec.checkpoint.volume is not None:
        wanted["volumeClaimTemplates"] = [_claim(spec)]
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": wanted}


def _labels(name: str) -> dict[str, str]:
    return {**MANAGED_BY, "app.kubernetes.io/name": "seedbed-seeds", **selector_of(name)}


def _metadata(layer: Raw) -> dict[str, Any]:
    name = layer["metadata"]["name"]
    return {
        "name": pods_name(name),
        "namespace": layer["metadata"]["namespace"],
        "labels": {**_labels(name), **queue_labels(layer)},
        "ownerReferences": [owner_reference(layer)],
    }


def _digest(spec: SeedLayerSpec) -> str:
    """Changes when the pods have to start again to see what changed."""
    chosen = spec.model_dump(mode="json", include={*_AT_START})
    place = spec.checkpoint.model_dump(mode="json", include={"url", "claim"})
    text = orjson.dumps([chosen, place], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def _claim(spec: SeedLayerSpec) -> dict[str, Any]:
    volume = spec.checkpoint.volume
    assert volume is not None
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.class_name is not None:
        claim["storageClassName"] = volume.class_name
    return {"metadata": {"name": "checkpoints"}, "spec": claim}


def _pod(metadata: Raw, spec: SeedLayerSpec, defaults: Defaults) -> dict[str, Any]:
    template = spec.template
    pod: dict[str, Any] = {
        "serviceAccountName": template.service_account_name or defaults.worker_service_account,
        "enableServiceLinks": False,  # they would set variables named like settings of ours
        "automountServiceAccountToken": template.service_account_name is not None,
        # A spot node gives two minutes: the state has to be safe by then.
        "terminationGracePeriodSeconds": math.ceil(seconds(spec.drain)) + _FAREWELL,
        "securityContext": {**POD_SECURITY, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [_container(metadata, spec, defaults)],
        "volumes": [SCRATCH_VOLUME, *_volumes(spec)],
    }
    return pod | passed_through(template)


def _volumes(spec: SeedLayerSpec) -> Iterator[dict[str, Any]]:
    if spec.checkpoint.claim is not None:
        claim: dict[str, Any] = {"claimName": spec.checkpoint.claim}
        yield {"name": "checkpoints", "persistentVolumeClaim": claim}
    elif spec.checkpoint.volume is None and spec.checkpoint.url is None:
        yield {"name": "checkpoints", "emptyDir": {}}
    for volume in spec.volumes:
        # Read-only here as well: a kubelet does not change the owner of what it may only read.
        claim = {"claimName": volume.claim, "readOnly": True}
        yield {"name": f"user-{volume.name}", "persistentVolumeClaim": claim}


def _mounts(spec: SeedLayerSpec) -> Iterator[dict[str, Any]]:
    if spec.checkpoint.url is None:
        yield {"name": "checkpoints", "mountPath": CHECKPOINTS}
    for volume in spec.volumes:
        path = f"/volumes/{volume.name}"
        yield {"name": f"user-{volume.name}", "mountPath": path, "readOnly": True}


def _container(metadata: Raw, spec: SeedLayerSpec, defaults: Defaults) -> dict[str, Any]:
    template = spec.template
    container: dict[str, Any] = {
        "name": "seeds",
        "image": template.image or defaults.seeds_image,
        "imagePullPolicy": template.image_pull_policy or defaults.image_pull_policy,
        "args": ["serve", "seeds"],
        "env": _environment(metadata, spec, defaults),
        "ports": [
            {"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": SERVE_PORT, "protocol": "TCP"},
        ],
        # A large model takes minutes to load.
        "startupProbe": probe("/healthz", period=2, failures=300),
        "livenessProbe": probe("/healthz", period=10, failures=6),
        "readinessProbe": probe("/readyz", period=2, failures=2),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [SCRATCH_MOUNT, *_mounts(spec)],
    }
    if spec.distribution is not None:
        # torchrun starts a group anew that has lost a process; until the pods have met nothing answers.
        for name in ("startupProbe", "livenessProbe"):
            del container[name]
    if resources := _resources(spec):
        container["resources"] = resources
    return container


def _resources(spec: SeedLayerSpec) -> dict[str, Any]:
    """The user's own, with the GPUs and the claims that the pod brings."""
    said = dict(spec.template.resources)
    if spec.gpus:
        said["limits"] = {**(said.get("limits") or {}), GPU: str(spec.gpus)}
    claims = [{"name": claim["name"]} for claim in spec.template.resource_claims]
    if claims and not said.get("claims"):
        said["claims"] = claims
    return said


def _environment(metadata: Raw, spec: SeedLayerSpec, defaults: Defaults) -> list[dict[str, Any]]:
    """What connects a pod; the user's own variables may not override what makes it one of ours."""
    mine: list[dict[str, Any]] = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "SEEDBED_NAMESPACE", "value": metadata["namespace"]},
        {"name": "SEEDBED_SEED_LAYER", "value": metadata["name"]},
        {"name": "SEEDBED_SEED_LAYER_UID", "value": metadata["uid"]},
        {"name": "SEEDBED_SEED_CHECKPOINTS", "value": spec.checkpoint.url or CHECKPOINTS},
        {"name": "SEEDBED_DRAIN", "value": spec.drain},
        *(dict(variable) for variable in defaults.environment),
    ]
    if spec.distribution is not None:
        mine += _group(metadata, spec.distribution)
    if spec.token_secret is not None:
        secret = {"name": spec.token_secret.name, "key": spec.token_secret.key}
        mine.append({"name": "SEEDBED_SEED_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    taken = {variable["name"] for variable in mine}
    return [*mine, *(dict(one) for one in spec.template.env if one.get("name") not in taken)]


def _group(metadata: Raw, together: Distribution) -> Iterator[dict[str, Any]]:
    """What torchrun's elastic launch has to know."""
    name = metadata["name"]
    domain = f"{peers_name(name)}.{metadata['namespace']}.svc"
    yield {"name": "SEEDBED_SEED_GROUP", "value": together.seeds}
    yield {"name": "SEEDBED_SEED_PROCESSES", "value": str(together.processes_per_pod)}
    yield {"name": "SEEDBED_SEED_LEAST_PODS", "value": str(together.least_pods)}
    meeting = f"{pods_name(name)}-0.{domain}:{RENDEZVOUS_PORT}"
    yield {"name": "SEEDBED_SEED_RENDEZVOUS", "value": meeting}
    yield {"name": "SEEDBED_SEED_ADDRESS", "value": f"$(POD_NAME).{domain}"}
