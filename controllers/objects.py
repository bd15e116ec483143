"""Reading raw objects: the few paths that every reconciler needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from seedbed.controllers.conditions import Claim, conditions
from seedbed.controllers.plan import Key, Raw
from seedbed.crds.base import API_VERSION, GROUP

MANAGED_BY = {"app.kubernetes.io/managed-by": "seedbed"}
POOL_LABEL = f"{GROUP}/pool"
WORKFLOW_LABEL = f"{GROUP}/workflow"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def owner_reference(obj: Raw) -> dict[str, Any]:
    """What a child carries to be deleted with its owner."""
    metadata = obj["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": obj["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def status(obj: Raw, claims: Sequence[Claim], now: datetime, **fields: Any) -> dict[str, Any]:
    """A status with its generation and conditions, and the kind's own fields."""
    before = (obj.get("status") or {}).get("conditions") or ()
    generation = int(obj["metadata"].get("generation", 1))
    return {
        "observedGeneration": generation,
        "conditions": conditions(claims, before, generation, now),
        **fields,
    }


def pool_key(obj: Raw, name: str) -> Key:
    """The Pool of that name beside the object."""
    return Key("Pool", obj["metadata"]["namespace"], name)
