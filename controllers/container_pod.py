"""The Pod of a container step: how it is made, and what its end means."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import orjson

from seedbed.controllers.deployment import container_security, pod_security
from seedbed.controllers.objects import MANAGED_BY, WORKFLOW_LABEL, owner_reference
from seedbed.controllers.plan import Raw
from seedbed.crds.base import GROUP
from seedbed.crds.messages import ContainerTask, StepError, StepResult
from seedbed.crds.workflow import ContainerRun

STEP_ANNOTATION = f"{GROUP}/step"


def pod_name(workflow: str, run: str, task: ContainerTask) -> str:
    """The same for the same attempt of the same step; at most 63 characters."""
    whole = f"{run}/{task.key}/{task.attempt}"
    digest = hashlib.sha256(whole.encode()).hexdigest()[:10]
    return f"{workflow[:24].rstrip('-')}-{task.key.step[:24].rstrip('-')}-{digest}"


def step_pod(obj: Raw, run: str, task: ContainerTask) -> dict[str, Any]:
    """The Pod of one attempt, under the restricted Pod Security Standard."""
    wanted = ContainerRun.model_validate(task.container)
    metadata = obj["metadata"]
    container: dict[str, Any] = {
        "name": "step",
        "image": wanted.image,
        "command": list(wanted.command),
        "args": list(wanted.args),
        "env": [*wanted.env, {"name": "SEEDBED_IDEMPOTENCY_KEY", "value": f"{run}/{task.key}"}],
        "resources": wanted.resources,
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 -- in the pod
    }
    if wanted.image_pull_policy:
        container["imagePullPolicy"] = wanted.image_pull_policy
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(metadata["name"], run, task),
            "namespace": metadata["namespace"],
            "labels": {**MANAGED_BY, WORKFLOW_LABEL: metadata["name"]},
            "annotations": {STEP_ANNOTATION: f"{task.key} attempt {task.attempt}"},
            "ownerReferences": [owner_reference(obj)],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "activeDeadlineSeconds": max(1, math.ceil(task.timeout)),
            "securityContext": pod_security(),
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def result_of(pod: Raw, run: str, task: ContainerTask) -> StepResult | None:
    """What a Pod's end says of its step; None while it goes on."""
    status = pod.get("status") or {}
    phase = status.get("phase")
    if phase not in ("Succeeded", "Failed"):
        return None
    ended = _terminated(status)
    message = str(ended.get("message") or "")
    worker = f"pod/{pod['metadata']['name']}"
    if phase == "Succeeded":
        return StepResult(run, task.key, task.attempt, worker, output=_output(message))
    return StepResult(run, task.key, task.attempt, worker, error=_error(status, ended, message))


def _terminated(status: Raw) -> dict[str, Any]:
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        if "terminated" in state:
            return dict(state["terminated"])
    return {}


def _output(message: str) -> Any:
    if not message:
        return None
    try:
        return orjson.loads(message)
    except orjson.JSONDecodeError:
        return message.rstrip("\n")


def _error(status: Raw, ended: dict[str, Any], message: str) -> StepError:
    reason = status.get("reason") or ended.get("reason") or "Failed"
    if reason == "DeadlineExceeded":
        return StepError("timeout", "the container did not end within its time limit")
    text = message or status.get("message") or ""
    code = ended.get("exitCode")
    told = f"{reason}: exit code {code}" if code is not None else str(reason)
    return StepError("container_failed", f"{told}: {text}" if text else told)
