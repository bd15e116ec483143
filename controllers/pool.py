"""`Pool`: keeps a Deployment of workers and says how many of them serve."""

from __future__ import annotations

from datetime import datetime

import orjson

from seedbed.controllers.conditions import Claim, ready, waiting
from seedbed.controllers.deployment import name_of, worker_deployment
from seedbed.controllers.objects import POOL_LABEL, status
from seedbed.controllers.plan import Defaults, Effect, Observed, Plan, Publish, Raw, Withdraw
from seedbed.crds.messages import pool_setting
from seedbed.crds.pool import PoolSpec


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:
    """Decide what a Pool needs: its Deployment, its live setting, its status."""
    key = observed.key
    setting = pool_setting(key.namespace, key.name)
    if observed.object is None:
        return Plan(effects=(Withdraw(setting),) if setting in observed.settings else ())
    obj = observed.object
    spec = PoolSpec.model_validate(obj.get("spec") or {})
    deployment = _deployment(observed)
    counts = (deployment or {}).get("status") or {}
    replicas, ready_replicas = int(counts.get("replicas", 0)), int(counts.get("readyReplicas", 0))
    return Plan(
        apply=(worker_deployment(obj, spec, defaults),),
        effects=publish(setting, spec.model_dump_json(by_alias=True), observed),
        status=status(
            obj,
            _claims(spec, ready_replicas, observed.workers),
            now,
            replicas=replicas,
            readyReplicas=ready_replicas,
            workers=observed.workers,
            selector=f"{POOL_LABEL}={key.name}",
        ),
    )


def publish(setting: str, value: str, observed: Observed) -> tuple[Effect, ...]:
    """Set a live setting where it is not what it should be."""
    current = observed.settings.get(setting)
    if current is not None and orjson.loads(current) == orjson.loads(value):
        return ()
    return (Publish(setting, value.encode()),)


def _deployment(observed: Observed) -> Raw | None:
    name = name_of(observed.key.name)
    for child in observed.children:
        if child["kind"] == "Deployment" and child["metadata"]["name"] == name:
            return child
    return None


def _claims(spec: PoolSpec, ready_replicas: int, workers: int) -> tuple[Claim, ...]:
    wanted = spec.replicas * spec.workers_per_replica
    told = f"{workers} of {wanted} workers ready"
    suspended = Claim("Suspended", spec.suspend, "Suspended" if spec.suspend else "NotSuspended")
    if spec.suspend:
        return (*ready("Suspended", "suspended: no worker runs"), suspended)
    if spec.replicas == 0:
        return (*ready("ScaledToZero", "scaled to zero: no worker runs"), suspended)
    if ready_replicas < spec.replicas:
        pods = f"{ready_replicas} of {spec.replicas} pods ready"
        return (*waiting("PodsNotReady", pods), suspended)
    if workers < wanted:
        return (*waiting("WorkersNotRegistered", told), suspended)
    return (*ready("Available", told), suspended)
