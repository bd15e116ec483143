"""Pool: a Deployment of workers, and the spec published for those who hand out work."""

from __future__ import annotations

from datetime import datetime

from seedbed.controllers.conditions import Verdict, condition, ready, stalled, waiting
from seedbed.controllers.deployment import selector_of, worker_deployment
from seedbed.controllers.plan import Defaults, Observed, Plan, Raw
from seedbed.controllers.reading import (
    child_of,
    publish,
    read_spec,
    refused,
    seen,
    status_of,
    told,
    withdraw,
)
from seedbed.crds.addresses import pool_setting
from seedbed.crds.errors import InvalidError
from seedbed.crds.pool import PoolSpec


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:
    """Keeps the Deployment as the Pool says; tells how many workers there are."""
    setting = pool_setting(observed.key.namespace, observed.key.name)
    pool = observed.object
    if pool is None:
        return Plan(effects=withdraw(observed, setting))
    try:
        spec = read_spec(PoolSpec, pool)
    except InvalidError as error:
        return refused(pool, error, now)
    deployment = worker_deployment(pool, spec, defaults)
    child = child_of(observed.children, "Deployment", deployment["metadata"]["name"])
    there = status_of(child)
    selector = ",".join(f"{name}={value}" for name, value in selector_of(observed.key.name).items())
    return told(
        pool,
        _verdicts(spec, child, observed.workers),
        now,
        fields={
            "replicas": there.get("replicas", 0),
            "readyReplicas": there.get("readyReplicas", 0),
            "workers": observed.workers,
            "selector": selector,
        },
        apply=(deployment,),
        effects=publish(observed, setting, spec),
    )


def _verdicts(spec: PoolSpec, child: Raw, workers: int) -> dict[str, Verdict]:
    suspended = Verdict(
        "True" if spec.suspend else "False",
        "Suspended" if spec.suspend else "Active",
        "spec.suspend is set" if spec.suspend else "spec.suspend is not set",
    )
    if spec.suspend:
        verdicts = ready("Suspended", "suspended: no worker pods, the queue is kept")
    elif spec.replicas == 0:
        verdicts = ready("ScaledToZero", "no worker pods are wanted")
    else:
        verdicts = _progress(spec, child, workers)
    return {**verdicts, "Suspended": suspended}


def _progress(spec: PoolSpec, child: Raw, workers: int) -> dict[str, Verdict]:
    there = status_of(child)
    pods, wanted = there.get("readyReplicas", 0), spec.replicas
    expected = wanted * spec.workers_per_replica
    failure, progress = condition(child, "ReplicaFailure"), condition(child, "Progressing")
    if pods < wanted and failure.get("status") == "True":
        return waiting("PodsRefused", f"{pods} of {wanted} pods ready: {failure.get('message')}")
    if progress.get("reason") == "ProgressDeadlineExceeded" and seen(child):
        return stalled("PodsStuck", f"{pods} of {wanted} pods ready: {progress.get('message')}")
    if pods < wanted:
        return waiting("PodsNotReady", f"{pods} of {wanted} pods ready")
    current = there.get("updatedReplicas", 0) if seen(child) else 0
    if current < wanted or there.get("replicas", 0) > current:
        return waiting("RollingOut", f"{current} of {wanted} pods are as the Pool says now")
    if workers < expected:
        return waiting("WorkersNotRegistered", f"{workers} of {expected} workers registered")
    return ready("Available", f"{wanted} of {wanted} pods ready, {workers} workers registered")
