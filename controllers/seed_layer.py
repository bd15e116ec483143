"""SeedLayer: a StatefulSet of pods that serve and train, and a status made of what they report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from seedbed.controllers.conditions import Verdict, ready, shortened, stalled, timestamp, waiting
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
from seedbed.controllers.seed_pods import (
    address_of,
    pods_name,
    selector_of,
    services,
    stateful_set,
)
from seedbed.crds.errors import InvalidError
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.crds.seed_messages import SILENT_SECONDS, SeedReport, in_one_line, seed_setting

SLOW_SECONDS = 0.1
"""A P99 of the forward pass above this is told as degraded."""
_PROGRESS = {
    "Training": "seeds are trained",
    "Resting": "training rests between two epochs",
    "Ended": "training has run all of its epochs",
    "Waiting": "no data to train on: only what callers send to /v1/train",
    "Off": "the feature chunked_architecture is off: the plain model is served",
}


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:
    """Keeps the pods as the SeedLayer says; tells what they report."""
    setting = seed_setting(observed.key.namespace, observed.key.name)
    layer = observed.object
    if layer is None:
        return Plan(effects=withdraw(observed, setting))
    try:
        spec = read_spec(SeedLayerSpec, layer)
    except InvalidError as error:
        return refused(layer, error, now)
    reports = _own(observed.seeds, layer, spec, now)
    child = child_of(observed.children, "StatefulSet", pods_name(observed.key.name))
    pods = status_of(child)
    return told(
        layer,
        _verdicts(spec, child, reports),
        now,
        fields={
            "replicas": pods.get("replicas", 0),
            "readyReplicas": pods.get("readyReplicas", 0),
            "selector": ",".join(f"{k}={v}" for k, v in selector_of(observed.key.name).items()),
            "address": address_of(observed.key.namespace, observed.key.name),
            **_reported(reports, status_of(layer)),
        },
        apply=(*services(layer, spec), stateful_set(layer, spec, defaults)),
        effects=publish(observed, setting, spec),
        requeue_after=SILENT_SECONDS if reports else None,
    )


def _own(
    reports: Sequence[SeedReport], layer: Raw, spec: SeedLayerSpec, now: datetime
) -> tuple[SeedReport, ...]:
    """The reports that count: of this object's pods, of those that still speak, the trainer's first."""
    if spec.suspend:
        return ()
    name = pods_name(layer["metadata"]["name"])
    wanted = {f"{name}-{number}" for number in range(spec.replicas)}
    living = (
        report
        for report in reports
        if report.uid == layer["metadata"]["uid"]
        and report.pod in wanted
        and now.timestamp() - report.at < SILENT_SECONDS
    )
    return tuple(sorted(living, key=lambda report: (not report.trains, report.pod)))


def _verdicts(spec: SeedLayerSpec, child: Raw, reports: Sequence[SeedReport]) -> dict[str, Verdict]:
    suspended = Verdict(
        "True" if spec.suspend else "False",
        "Suspended" if spec.suspend else "Active",
        "spec.suspend is set" if spec.suspend else "spec.suspend is not set",
    )
    return {
        **_overall(spec, child, reports),
        "Progressing": _progressing(reports),
        "Degraded": _degraded(spec, status_of(child), reports),
        "Suspended": suspended,
    }


def _overall(spec: SeedLayerSpec, child: Raw, reports: Sequence[SeedReport]) -> dict[str, Verdict]:
    pods = status_of(child)
    if spec.suspend:
        return ready("Suspended", "suspended: no pods, the checkpoints are kept")
    if spec.replicas == 0:
        return ready("ScaledToZero", "no pods are wanted")
    for report in reports:
        if report.phase == "Failed":
            return stalled(report.reason or "Failed", f"{report.pod}: {report.message}")
    for report in reports:
        if report.phase == "Serving" and report.reason:
            return stalled(report.reason, f"{report.pod} {report.message}")
    there = int(pods.get("readyReplicas", 0))
    if there < 1:
        loading = next((one for one in reports if one.phase == "Loading"), None)
        doing = f": {loading.message}" if loading is not None and loading.message else ""
        return waiting("PodsNotReady", f"{there} of {spec.replicas} pods ready{doing}")
    if not any(report.phase == "Serving" for report in reports):
        return waiting("PodsSilent", "no pod has reported yet, or for a minute")
    if there < spec.replicas:
        return waiting("PodsNotReady", f"{there} of {spec.replicas} pods ready")
    current = _current(child)
    if current < spec.replicas:
        told = f"{current} of {spec.replicas} pods are as the SeedLayer says now"
        return waiting("RollingOut", told)
    return ready("Serving", f"{there} of {spec.replicas} pods serve")


def _current(child: Raw) -> int:
    """How many pods are of the newest version; none where Kubernetes has not seen it yet."""
    pods = status_of(child)
    if not seen(child):
        return 0
    if pods.get("updateRevision") == pods.get("currentRevision"):
        return int(pods.get("replicas", 0))  # all are of one version
    return int(pods.get("updatedReplicas", 0))


def _progressing(reports: Sequence[SeedReport]) -> Verdict:
    trainer = _trainer(reports)
    if trainer is None:
        return Verdict("False", "NoTrainer", "no pod that trains has reported")
    going = trainer.activity in ("Training", "Resting")
    message = f"{_PROGRESS[trainer.activity]}; {trainer.adapting} seeds are on their way"
    return Verdict("True" if going else "False", trainer.activity, message)


def _degraded(spec: SeedLayerSpec, pods: Raw, reports: Sequence[SeedReport]) -> Verdict:
    there = int(pods.get("readyReplicas", 0))
    slowest = max((report.p99 or 0.0 for report in reports), default=0.0)
    if spec.suspend or spec.replicas == 0 or not pods:
        return Verdict("False", "NotServing", "nothing is served that could be degraded")
    if 0 < there < spec.replicas:
        return Verdict("True", "PodsMissing", f"{there} of {spec.replicas} pods ready")
    if there and len(reports) < there:
        silent = f"{there - len(reports)} of {there} pods have not reported for a minute"
        return Verdict("True", "PodsSilent", silent)
    if slowest > SLOW_SECONDS:
        limit = _duration(SLOW_SECONDS)
        return Verdict("True", "Slow", f"the slowest pod's P99 is above {limit}")
    return Verdict("False", "Healthy", "pods report, and answer in time")


def _trainer(reports: Sequence[SeedReport]) -> SeedReport | None:
    return next((report for report in reports if report.trains), None)


def _reported(reports: Sequence[SeedReport], before: Raw) -> dict[str, Any]:
    """The fields that come from the pods; while none speaks, what the seeds were last stays."""
    first = _trainer(reports) or next(iter(reports), None)
    if first is None:
        return {name: before[name] for name in _LASTING if name in before}
    if first.phase != "Serving" and not first.stages:
        lasting = {name: before[name] for name in _LASTING if name in before}
        return {**lasting, **_speed(reports)}
    fields = {
        "stages": in_one_line(first.stages),
        "seeds": {stage: count for stage, count in sorted(first.stages.items()) if count},
        "layers": first.layers,
        "active": sorted(first.features),
        "epoch": first.epoch,
        "step": first.step,
        "decisions": first.decisions,
        **_speed(reports),
    }
    if first.accuracy is not None:
        fields["accuracy"] = f"{first.accuracy:.4f}"
    if first.base_accuracy is not None:
        fields["baseAccuracy"] = f"{first.base_accuracy:.4f}"
    if first.new_parameters is not None:
        fields["newParameters"] = f"{first.new_parameters:.2%}"
    if first.decision is not None:
        fields["lastDecision"] = {
            "epoch": first.decision.epoch,
            "action": first.decision.action,
            "layer": first.decision.layer,
            "seed": first.decision.seed,
            "reason": shortened(first.decision.reason, 500),
        }
    if first.checkpoint is not None:
        moment = datetime.fromtimestamp(first.checkpoint.at, UTC)
        fields["lastCheckpoint"] = {
            "time": timestamp(moment),
            "epoch": first.checkpoint.epoch,
            "sizeBytes": first.checkpoint.size_bytes,
        }
    return fields


_LASTING = (
    "stages",
    "seeds",
    "layers",
    "active",
    "epoch",
    "step",
    "accuracy",
    "baseAccuracy",
    "newParameters",
    "decisions",
    "lastDecision",
    "lastCheckpoint",
)
"""What stays true of a SeedLayer whose pods are away."""


def _speed(reports: Sequence[SeedReport]) -> Mapping[str, Any]:
    fields: dict[str, Any] = {}
    served = [report for report in reports if report.p99 is not None]
    if served:
        slowest = max(served, key=lambda report: report.p99 or 0.0)
        fields["forward"] = {
            name: _duration(getattr(slowest, name)) for name in ("p50", "p95", "p99")
        }
        fields["throughput"] = f"{_rounded(sum(report.throughput for report in reports)):g}/s"
    if memory := max((report.memory_bytes for report in reports), default=0):
        fields["memory"] = f"{memory / (1 << 20):.0f}Mi"
    devices = [one.gpu_utilisation for one in reports if one.gpu_utilisation is not None]
    if devices:
        fields["gpuUtilisation"] = f"{sum(devices) / len(devices):.0%}"
    return fields


def _rounded(value: float) -> float:
    """To two digits: a status that moves with every request is a write with every report."""
    return float(f"{value:.2g}")


def _duration(length: float | None) -> str:
    """Seconds as people read them, to two digits."""
    if length is None:
        return ""
    return f"{_rounded(length):g}s" if length >= 1 else f"{_rounded(length * 1000):g}ms"
