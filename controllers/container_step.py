"""Pods of container steps: how one is made, and what its end means."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from seedbed.controllers.plan import Defaults, Key, Observed, Raw, ReportStep
from seedbed.controllers.pods import (
    CONTAINER_SECURITY,
    MANAGED_BY,
    POD_SECURITY,
    SCRATCH_MOUNT,
    SCRATCH_VOLUME,
    WORKFLOW_LABEL,
    key_of,
    owner_reference,
    queue_labels,
)
from seedbed.crds.messages import ContainerTask, RunSummary, StepError, StepResult

REPORTER = "operator"
_CONTAINER = "step"


def pod_name(workflow: str, run: str, task: ContainerTask) -> str:
    """Name of the Pod of one attempt: the same attempt never gets two."""
    identity = f"{run}/{task.key}/{task.attempt}"
    return f"{workflow[:46]}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def step_pod(workflow: Raw, run: str, task: ContainerTask, defaults: Defaults) -> dict[str, Any]:
    """The Pod of one attempt of a container step."""
    metadata, container = workflow["metadata"], task.container
    said = {
        "command": list(container.get("command") or ()),
        "args": list(container.get("args") or ()),
        "env": list(container.get("env") or ()),
        "resources": container.get("resources"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(metadata["name"], run, task),
            "namespace": metadata["namespace"],
            "labels": {
                **MANAGED_BY,
                "app.kubernetes.io/name": "seedbed-step",
                WORKFLOW_LABEL: metadata["name"],
                **queue_labels(workflow),
            },
            "annotations": {"seedbed.dev/run": run, "seedbed.dev/step": str(task.key)},
            "ownerReferences": [owner_reference(workflow)],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "activeDeadlineSeconds": max(1, math.ceil(task.timeout)),
            "terminationGracePeriodSeconds": 5,
            "securityContext": POD_SECURITY,
            "containers": [
                {
                    "name": _CONTAINER,
                    "image": container["image"],
                    "imagePullPolicy": container.get("imagePullPolicy")
                    or defaults.image_pull_policy,
                    "securityContext": CONTAINER_SECURITY,
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "volumeMounts": [SCRATCH_MOUNT],
                    **{name: value for name, value in said.items() if value},
                }
            ],
            "volumes": [SCRATCH_VOLUME],
        },
    }


def container_steps(
    observed: Observed, workflow: Raw, run: RunSummary, defaults: Defaults
) -> tuple[tuple[Raw, ...], tuple[Key, ...], tuple[ReportStep, ...]]:
    """Pods to make, Pods to delete, and ends to report, for the container steps of a run."""
    pods = {child["metadata"]["name"]: child for child in observed.children if _is_pod(child)}
    tasks = {pod_name(observed.key.name, run.run, task): task for task in run.containers}
    missing = tuple(
        step_pod(workflow, run.run, task, defaults)
        for name, task in tasks.items()
        if name not in pods
    )
    reports = tuple(
        ReportStep(result)
        for name, task in tasks.items()
        if name in pods and (result := step_result(run.run, task, pods[name])) is not None
    )
    return missing, surplus(pod for name, pod in pods.items() if name not in tasks), reports


def surplus(children: Iterable[Raw]) -> tuple[Key, ...]:
    """The Pods among the children that are not on their way out yet."""
    return tuple(
        key_of(child)
        for child in children
        if _is_pod(child) and not child["metadata"].get("deletionTimestamp")
    )


def step_result(run: str, task: ContainerTask, pod: Raw) -> StepResult | None:
    """What became of an attempt, or None while its Pod goes on."""
    status = pod.get("status") or {}
    phase = status.get("phase")
    if phase not in ("Succeeded", "Failed"):
        return None
    ended = _ended(status)
    text = str(ended.get("message") or "")
    if phase == "Succeeded":
        return StepResult(run, task.key, task.attempt, REPORTER, output=_output(text))
    return StepResult(run, task.key, task.attempt, REPORTER, error=_error(status, ended, text))


def _error(status: Mapping[str, Any], ended: Mapping[str, Any], text: str) -> StepError:
    reason = status.get("reason") or ended.get("reason") or "Failed"
    if reason == "DeadlineExceeded":
        return StepError("timeout", "the container did not end in time")
    code = ended.get("exitCode")
    why = f"the container ended with exit code {code}" if code is not None else "the Pod failed"
    said = text or status.get("message") or ""
    return StepError("container_failed", f"{why} ({reason}){': ' + said if said else ''}"[:512])


def _ended(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in status.get("containerStatuses") or ():
        if container.get("name") == _CONTAINER:
            ended: Mapping[str, Any] = (container.get("state") or {}).get("terminated") or {}
            return ended
    return {}


def _output(text: str) -> Any:
    """JSON where the container wrote JSON, else its text, else null."""
    try:
        return orjson.loads(text) if text.strip() else None
    except orjson.JSONDecodeError:
        return text.strip()


def _is_pod(child: Raw) -> bool:
    return bool(child["kind"] == "Pod")
