"""examples/seeds/digits.yaml on a real node, as its user sees it: objects, pages, commands."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.e2e.node import Node, eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "seeds" / "digits.yaml"
PACKAGES = Path(torch.__file__).resolve().parents[1]
NAME, POD = "digits", "digits-seeds-0"
ENDLESS = 100_000
RECOVERED = 0.573
"""Half of what the shift has cost: without it 0.964 of the test's pictures are read rightly, with it 0.182."""


@dataclass(frozen=True, slots=True)
class Digits:
    """The example in a namespace of the cluster."""

    node: Node
    namespace: str

    def page(self, path: str) -> dict[str, Any]:
        """A page of the pods, through their Service; {} while none answers."""
        service = f"/api/v1/namespaces/{self.namespace}/services/{NAME}-seeds:8000/proxy"
        text = self.node.kubectl("get", "--raw", service + path, check=False)
        return json.loads(text) if text.startswith("{") else {}

    def asked(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the model reads in these pictures, asked through the Service."""
        service = f"/api/v1/namespaces/{self.namespace}/services/{NAME}-seeds:8000/proxy/v1/infer"
        text = json.dumps({"inputs": pictures.tolist()})
        found = json.loads(self.node.kubectl("create", "--raw", service, "-f", "-", stdin=text))
        return torch.tensor(found["outputs"]).argmax(dim=1)

    def pod(self) -> dict[str, Any]:
        """The pod that trains, {} while there is none."""
        return self.node.get("pod", POD, self.namespace)

    def status(self) -> dict[str, Any]:
        """What the operator reports."""
        return self.node.get("seedlayer", NAME, self.namespace).get("status") or {}

    def change(self, **spec: Any) -> None:
        """Change the spec, as a user would."""
        patch = json.dumps({"spec": spec})
        self.node.kubectl(
            "patch", "sbseed", NAME, "-n", self.namespace, "--type=merge", "-p", patch
        )

    def ready(self, not_pod: str = "") -> None:
        """Wait until the SeedLayer is ready, with a pod other than this one."""

        def other_pod_serves() -> bool:
            pod = self.pod()
            if not pod or pod["metadata"]["uid"] == not_pod:
                return False
            statuses = pod["status"].get("containerStatuses") or [{"ready": False}]
            return all(each["ready"] for each in statuses) and bool(self.page("/v1/model"))

        eventually(other_pod_serves, "the pod serves", 150)
        eventually(
            lambda: self.node.condition("seedlayer", NAME, self.namespace).get("status") == "True",
            "the SeedLayer is ready",
        )

    def activity(self) -> str:
        """What the training does, as the operator tells it."""
        found = self.node.condition("seedlayer", NAME, self.namespace, "Progressing")
        return str(found.get("reason", ""))

    def held_in(self, stage: str) -> dict[str, Any]:
        """Training stopped while a seed is in this stage; gives the hash of the state, and the seeds."""

        def caught() -> dict[str, Any]:
            self.change(training={"epochs": ENDLESS})
            eventually(lambda: self.activity() in ("Training", "Resting"), "seeds are trained")
            eventually(lambda: self.page("/v1/seeds")["stages"].get(stage), f"a seed is {stage}")
            self.change(training={"epochs": 1})
            eventually(lambda: self.activity() == "Ended", "training has stopped")
            found = {"state": self.page("/v1/state"), "seeds": self.page("/v1/seeds")}
            return found if found["seeds"]["stages"].get(stage) else {}

        return eventually(caught, f"training is stopped while a seed is {stage}", 120)

    def kill(self) -> str:
        """End the pod at once, with nothing saved; gives its uid."""
        pod = self.pod()
        os.kill(self.node.process_of(pod), signal.SIGKILL)
        self.node.kubectl(
            *("delete", "pod", POD, "-n", self.namespace, "--force", "--grace-period=0"),
        )
        return str(pod["metadata"]["uid"])


def packages(namespace: str) -> list[dict[str, Any]]:
    """A claim on this environment's packages, which pods may only read."""
    form = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {
        **form,
        "capacity": {"storage": "1Gi"},
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(PACKAGES), "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": "python"},
    }
    wanted = {
        **form,
        "volumeName": f"{namespace}-python",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-python"},
            "spec": volume,
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "python"},
            "spec": wanted,
        },
    ]


def with_packages(node: Node, spec: dict[str, Any]) -> None:
    """Have a SeedLayer's pods run the product's image, with packages from the volume."""
    image = node.pods("operator")[0]["spec"]["containers"][0]["image"]
    places = ("/opt/seedbed/app", "/opt/seedbed/lib/python", "/volumes/python")
    spec["volumes"] = [{"name": "python", "claim": "python"}]
    spec["template"] |= {
        "image": image,
        "imagePullPolicy": "Never",
        "env": [{"name": "PYTHONPATH", "value": ":".join(places)}],
    }


@contextmanager
def applied(node: Node, changes: dict[str, dict[str, Any]], *, own_image: bool) -> Iterator[Digits]:
    """The example in a namespace of its own under the restricted standard.

    Args:
        node: where.
        changes: fields of parts of the spec.
        own_image: whether the pods run the image with torch, which the node must have. If not they run the
            product's, and a volume brings torch and the rest: the packages of this environment.
    """
    namespace = f"seeds-{uuid.uuid4().hex[:6]}"
    node.kubectl("create", "namespace", namespace)
    node.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    layer, *flags = yaml.safe_load_all(EXAMPLE.read_text())
    for part, fields in changes.items():
        layer["spec"][part] |= fields
    if not own_image:
        with_packages(node, layer["spec"])
        node.apply(*packages(namespace), namespace=namespace)
    try:
        node.apply(layer, *flags, namespace=namespace)
        yield Digits(node, namespace)
    finally:
        node.kubectl("delete", "namespace", namespace, "--wait=false")
        node.kubectl("delete", "pv", f"{namespace}-python", "--ignore-not-found", "--wait=false")
