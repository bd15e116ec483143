"""`Workflow`: hands its plan to the engine, makes Pods for container steps, reports the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from seedbed.controllers.conditions import Claim, ready, shortened, stalled, timestamp, waiting
from seedbed.controllers.container_pod import pod_name, result_of, step_pod
from seedbed.controllers.objects import status
from seedbed.controllers.plan import (
    AdjustRun,
    CancelRun,
    Defaults,
    Effect,
    Event,
    Key,
    Observed,
    Plan,
    Raw,
    ReportStep,
    SubmitRun,
)
from seedbed.crds.errors import InvalidError
from seedbed.crds.graph import Graph
from seedbed.crds.messages import RunRequest, RunSummary, run_id
from seedbed.crds.workflow import WorkflowSpec

FINISHED = ("Succeeded", "Failed")
RECENT_LIMIT = 5


def references(obj: Raw) -> tuple[Key, ...]:
    """Agents and Pools that a Workflow names."""
    namespace = obj["metadata"]["namespace"]
    spec = obj.get("spec") or {}
    agents = {step["agent"]["name"] for step in spec.get("steps", ()) if step.get("agent")}
    pools = {step["pool"]["name"] for step in spec.get("steps", ()) if step.get("pool")}
    if any(step.get("call") and not step.get("pool") for step in spec.get("steps", ())):
        pools.add((spec.get("pool") or {}).get("name", "general"))
    return (
        *(Key("Agent", namespace, name) for name in sorted(agents)),
        *(Key("Pool", namespace, name) for name in sorted(pools)),
    )


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:  # noqa: ARG001 -- one signature for all kinds
    """Decide what a Workflow needs: its run, the Pods of its container steps, its status."""
    obj, run = observed.object, observed.run
    if obj is None:
        gone = run is not None and run.phase not in FINISHED
        return Plan(
            effects=(CancelRun(run.run, "the Workflow was deleted"),) if gone and run else ()
        )
    spec = WorkflowSpec.model_validate(obj["spec"])
    current = run_id(obj["metadata"]["uid"], spec)
    told = obj.get("status") or {}
    superseded = _superseded(told, current)
    if run is None or run.run != current:
        if told.get("runId") == current and told.get("phase") in FINISHED:
            return Plan()
        return _start(observed, spec, current, superseded, now)
    plan = _follow(observed, obj, spec, run, now)
    return Plan(
        apply=plan.apply,
        delete=plan.delete,
        status=plan.status,
        effects=(*superseded, *plan.effects),
        events=plan.events,
    )


def _superseded(told: Raw, current: str) -> tuple[Effect, ...]:
    old = told.get("runId")
    if old and old != current and told.get("phase") not in FINISHED:
        return (CancelRun(old, "the plan was changed"),)
    return ()


def _start(
    observed: Observed, spec: WorkflowSpec, run: str, superseded: tuple[Effect, ...], now: datetime
) -> Plan:
    obj = observed.object
    assert obj is not None
    try:
        Graph.build(spec)
    except InvalidError as error:
        claims = _claims(stalled("InvalidSpec", str(error)), accepted=False)
        return Plan(effects=superseded, status=status(obj, claims, now, phase="Pending"))
    missing = [key for key, found in observed.references.items() if found is None]
    if missing:
        first = min(missing)
        claims = _claims(
            waiting(f"{first.kind}NotFound", f"{first.kind} {first.name!r} does not exist"),
            accepted=False,
        )
        return Plan(effects=superseded, status=status(obj, claims, now, phase="Pending"))
    request = RunRequest(
        run,
        observed.key.namespace,
        observed.key.name,
        spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    )
    claims = _claims(waiting("WaitingForEngine", "the engine has not answered yet"), accepted=True)
    return Plan(
        effects=(*superseded, SubmitRun(request)),
        status=status(obj, claims, now, phase="Pending", runId=run),
    )


def _follow(
    observed: Observed, obj: Raw, spec: WorkflowSpec, run: RunSummary, now: datetime
) -> Plan:
    before = (obj.get("status") or {}).get("phase")
    pods = {child["metadata"]["name"]: child for child in observed.children}
    wanted = {pod_name(observed.key.name, run.run, task): task for task in run.containers}
    reports: list[Effect] = []
    for name, task in wanted.items():
        result = result_of(pods[name], run.run, task) if name in pods else None
        if result is not None:
            reports.append(ReportStep(result))
    return Plan(
        apply=tuple(step_pod(obj, run.run, task) for n, task in wanted.items() if n not in pods),
        delete=tuple(_needless(observed.key.namespace, pods, set(wanted))),
        effects=(*_adjustments(spec, run), *reports),
        status=_status(obj, run, now),
        events=tuple(_events(run, before)),
    )


def _needless(namespace: str, pods: dict[str, Raw], wanted: set[str]) -> Iterator[Key]:
    """Pods whose step waits for them no more; failed ones stay for their logs."""
    for name, pod in pods.items():
        if name not in wanted and (pod.get("status") or {}).get("phase") != "Failed":
            yield Key("Pod", namespace, name)


def _adjustments(spec: WorkflowSpec, run: RunSummary) -> tuple[Effect, ...]:
    if run.phase in FINISHED:
        return ()
    if spec.suspend == run.suspended and run.parallelism in (0, spec.parallelism):
        return ()
    return (AdjustRun(run.run, spec.suspend, spec.parallelism),)


def _claims(overall: tuple[Claim, ...], *, accepted: bool) -> tuple[Claim, ...]:
    reason = "Accepted" if accepted else overall[0].reason
    return (*overall, Claim("Accepted", accepted, reason, "" if accepted else overall[0].message))


def _run_claims(run: RunSummary) -> tuple[Claim, ...]:
    ended = run.counts.succeeded + run.counts.failed + run.counts.skipped
    told = run.message or f"{ended} of {run.counts.total} steps ended"
    if run.phase == "Succeeded":
        overall = ready(run.reason, told)
    elif run.phase == "Failed":
        overall = stalled(run.reason, told)
    else:
        overall = waiting(run.reason, told)
    return (
        *_claims(overall, accepted=True),
        Claim("Suspended", run.suspended, "Suspended" if run.suspended else "NotSuspended"),
        Claim("Finished", run.phase in FINISHED, run.reason),
    )


def _status(obj: Raw, run: RunSummary, now: datetime) -> dict[str, Any]:
    counts = run.counts
    ended = counts.succeeded + counts.failed + counts.skipped
    fields: dict[str, Any] = {
        "phase": run.phase,
        "runId": run.run,
        "progress": f"{ended}/{counts.total}",
        "steps": asdict(counts),
        "recent": [
            {
                "name": shortened(each.name, 80),
                "state": each.state,
                "message": shortened(each.message, 512),
            }
            for each in run.recent[:RECENT_LIMIT]
        ],
    }
    if run.started is not None:
        fields["startedAt"] = _moment(run.started)
    if run.finished is not None:
        fields["finishedAt"] = _moment(run.finished)
    if run.result is not None:
        fields["result"] = run.result
    return status(obj, _run_claims(run), now, **fields)


def _moment(unix: float) -> str:
    return timestamp(datetime.fromtimestamp(unix, UTC))


def _events(run: RunSummary, before: str | None) -> Iterator[Event]:
    if run.phase in (before, "Pending"):
        return
    kind: Any = "Warning" if run.phase == "Failed" else "Normal"
    yield Event(kind, run.phase, run.message or f"the run is {run.phase.lower()}")
