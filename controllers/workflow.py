"""Workflow: a run submitted to the engine once what it names exists; its state shown in the status.

The engine holds the truth about a run. This reconciler tells it what is wanted (submit, adjust,
cancel: each harmless when repeated) and shows what it last told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from seedbed.controllers.conditions import (
    condition,
    waiting,
)
from seedbed.controllers.container_step import container_steps, surplus
from seedbed.controllers.plan import (
    AdjustRun,
    CancelRun,
    Defaults,
    Effect,
    Key,
    Observed,
    Plan,
    Raw,
    SubmitRun,
)
from seedbed.controllers.reading import read_spec, refused, status_of, told
from seedbed.controllers.steps_source import Document, Missing, document
from seedbed.controllers.template import hide_template, show_template
from seedbed.controllers.workflow_status import FINISHED, as_before, fields_of, marks, verdicts_of
from seedbed.crds.admission import validate
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import Decision, RunRequest, RunSummary
from seedbed.crds.run_ids import run_id, trace_of
from seedbed.crds.workflow import WorkflowSpec


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:
    """Submits the plan as a run, keeps the run as the spec says, shows its state."""
    workflow = observed.object
    hidden = hide_template(observed)
    if workflow is None:
        return Plan(effects=(*hidden, *_cancel(observed.run, "the Workflow was deleted")))
    try:
        spec = _read(workflow)
    except InvalidError as error:
        return refused(workflow, error, now)
    if spec.template:
        ended = _cancel_previous(observed, status_of(workflow), spec)
        return show_template(observed, workflow, spec, ended, now)
    plan = _run(observed, workflow, spec, now, defaults)
    return replace(plan, effects=(*hidden, *plan.effects)) if hidden else plan


def _run(
    observed: Observed, workflow: Raw, spec: WorkflowSpec, now: datetime, defaults: Defaults
) -> Plan:
    before = status_of(workflow)
    source = document(observed, spec)
    if isinstance(source, Missing):
        return _without_document(observed, workflow, spec, source, now, defaults)
    run = _run_of(workflow, spec, source)
    summary = observed.run if observed.run is not None and observed.run.run == run else None
    goes_on = summary is not None or before.get("runId") == run
    if not goes_on:
        return _begin(observed, workflow, spec, run, source, now)
    submit = _submit(workflow, spec, run, source)
    return _follow(observed, workflow, spec, submit, summary, now, defaults)


def _run_of(workflow: Raw, spec: WorkflowSpec, source: Document) -> str:
    """The id of the plan's run.

    A spec that has not changed since the status named its run keeps that run, also where another
    version of this code, before an upgrade, made its id in another way.
    """
    before = status_of(workflow)
    same = before.get("observedGeneration") == workflow["metadata"].get("generation", 1)
    accepted = condition(workflow, "Accepted").get("status") == "True"
    if same and accepted and before.get("runId") and not source.text:
        return str(before["runId"])
    return run_id(workflow["metadata"]["uid"], spec, source.text)


def references(workflow: Raw) -> Iterator[Key]:
    """The objects that a Workflow names, as its raw spec names them."""
    namespace = workflow["metadata"]["namespace"]
    spec = workflow.get("spec") or {}
    held = (spec.get("stepsFrom") or {}).get("configMap")
    if held:
        yield Key("ConfigMap", namespace, held.get("name", ""))
    yield Key("Pool", namespace, (spec.get("pool") or {}).get("name", "general"))
    for step in spec.get("steps") or ():
        if step.get("pool"):
            yield Key("Pool", namespace, step["pool"].get("name", ""))
        if step.get("agent"):
            yield Key("Agent", namespace, step["agent"].get("name", ""))
        if (step.get("workflow") or {}).get("name"):
            yield Key("Workflow", namespace, step["workflow"]["name"])


def _read(workflow: Raw) -> WorkflowSpec:
    spec = read_spec(WorkflowSpec, workflow)
    before = status_of(workflow)
    generation = workflow["metadata"].get("generation", 1)
    accepted = condition(workflow, "Accepted")
    # Compiling a large graph takes a while: do it once for each generation of the spec.
    if accepted.get("status") != "True" or before.get("observedGeneration") != generation:
        plain = {name: workflow[name] for name in ("apiVersion", "kind", "metadata", "spec")}
        problems = validate(plain)
        if problems:
            raise problems[0]
    return spec


def _without_document(
    observed: Observed,
    workflow: Raw,
    spec: WorkflowSpec,
    missing: Missing,
    now: datetime,
    defaults: Defaults,
) -> Plan:
    """A plan whose ConfigMap is not there: a run that began has its steps and goes on."""
    begun = observed.run.run if observed.run is not None else status_of(workflow).get("runId")
    if not begun:
        verdicts = {**waiting(missing.reason, missing.message), **marks(spec, None)}
        return told(workflow, verdicts, now, fields={"phase": "Pending"})
    return _follow(observed, workflow, spec, None, observed.run, now, defaults)


def _begin(
    observed: Observed,
    workflow: Raw,
    spec: WorkflowSpec,
    run: str,
    source: Document,
    now: datetime,
) -> Plan:
    """A plan that has no run yet: wait for what it names, then submit."""
    before = status_of(workflow)
    effects = _cancel_previous(observed, before, spec)
    pods = surplus(observed.children)
    missing = _missing(observed, workflow, spec)
    if missing is not None:
        verdicts = {**waiting(*missing), **marks(spec, None)}
        return told(
            workflow, verdicts, now, fields={"phase": "Pending"}, effects=effects, delete=pods
        )
    verdicts = {**waiting("Submitted", "the run was given to the engine"), **marks(spec, None)}
    return told(
        workflow,
        verdicts,
        now,
        fields={"phase": "Pending", "runId": run},
        effects=(*effects, _submit(workflow, spec, run, source)),
        delete=pods,
    )


def _follow(
    observed: Observed,
    workflow: Raw,
    spec: WorkflowSpec,
    submit: SubmitRun | None,
    summary: RunSummary | None,
    now: datetime,
    defaults: Defaults,
) -> Plan:
    """A plan whose run is known: show its state and keep it as the spec says."""
    before = status_of(workflow)
    if summary is None:
        # Nothing was heard of it since this process began: what the status says stands until then.
        fields = {
            name: value
            for name, value in before.items()
            if name not in ("conditions", "observedGeneration", "fencingToken")
        }
        finished = before.get("phase") in FINISHED
        effects = () if finished or submit is None else (submit,)
        return told(workflow, as_before(workflow, spec), now, fields=fields, effects=effects)
    if summary.phase in FINISHED:
        return told(
            workflow,
            verdicts_of(spec, summary),
            now,
            fields=fields_of(summary),
            delete=surplus(observed.children),
        )
    pods, gone, reports = container_steps(observed, workflow, summary, defaults)
    return told(
        workflow,
        verdicts_of(spec, summary),
        now,
        fields=fields_of(summary),
        apply=pods,
        delete=gone,
        effects=(*_adjusted(spec, summary), *reports),
    )


def _missing(observed: Observed, workflow: Raw, spec: WorkflowSpec) -> tuple[str, str] | None:
    """Reason and sentence for the first thing that the plan names and that does not exist."""
    namespace = observed.key.namespace
    for at, step in enumerate(spec.steps):
        if step.agent is not None:
            agent = observed.references.get(Key("Agent", namespace, step.agent.name))
            if agent is None:
                where = f"spec.steps[{at}].agent.name"
                return "AgentNotFound", f"{where}: there is no Agent `{step.agent.name}` yet"
        elif step.workflow is not None and step.workflow.name is not None:
            found = observed.references.get(Key("Workflow", namespace, step.workflow.name))
            if found is None or not (found.get("spec") or {}).get("template"):
                said = f"there is no Workflow `{step.workflow.name}` with spec.template yet"
                return "WorkflowNotFound", f"spec.steps[{at}].workflow.name: {said}"
            continue
        elif step.call is None and step.goal is None:
            continue  # no worker of a Pool executes it
        pool = step.pool or (spec.pool if step.agent is None else None)
        if pool is None:
            continue
        if observed.references.get(Key("Pool", namespace, pool.name)) is None:
            where = f"spec.steps[{at}].pool.name" if step.pool else "spec.pool.name"
            return "PoolNotFound", f"{where}: there is no Pool `{pool.name}` yet"
    return _missing_pool_of_agents(observed, workflow)


def _missing_pool_of_agents(observed: Observed, workflow: Raw) -> tuple[str, str] | None:
    for key in references(workflow):
        agent = observed.references.get(key) if key.kind == "Agent" else None
        state = condition(agent, "Ready")
        if agent is not None and state.get("reason") in ("PoolNotFound", "InvalidSpec", None):
            why = state.get("message") or "it has no status yet"
            return "AgentNotReady", f"Agent `{key.name}` is not ready: {why}"
    return None


def _submit(workflow: Raw, spec: WorkflowSpec, run: str, source: Document) -> SubmitRun:
    metadata = workflow["metadata"]
    plan = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    request = RunRequest(run, metadata["namespace"], metadata["name"], plan, trace_of(run))
    return SubmitRun(request, source.text, source.packed)


def _cancel(run: RunSummary | None, reason: str) -> tuple[Effect, ...]:
    ongoing = run is not None and run.phase not in FINISHED
    return (CancelRun(run.run, reason),) if run is not None and ongoing else ()


def _cancel_previous(
    observed: Observed, before: Mapping[str, Any], spec: WorkflowSpec
) -> tuple[Effect, ...]:
    """Ends the run of an earlier plan, which the status or the engine knows of."""
    reason = "the plan was changed"
    shown = before.get("runId")
    fork = spec.fork_from
    if fork is not None and shown and (fork.run == shown or not (fork.run or fork.workflow)):
        place = f"checkpoint {fork.checkpoint}" if fork.checkpoint else "where it stood"
        reason = f"another run goes on from {place}"
    heard = _cancel(observed.run, reason)
    if heard or not shown or before.get("phase") in FINISHED:
        return heard
    return (CancelRun(shown, reason),)


def _adjusted(spec: WorkflowSpec, summary: RunSummary) -> tuple[Effect, ...]:
    """Tells the engine what may change while a run goes on, where it does something else."""
    decided = {
        one.step: Decision(given.decision, given.by, given.comment)
        for one in summary.waiting
        if one.kind == "approval" and (given := spec.approvals.get(one.step)) is not None
    }
    wanted = (spec.suspend, spec.parallelism, spec.priority)
    if (summary.suspended, summary.parallelism, summary.priority) == wanted and not decided:
        return ()
    return (AdjustRun(summary.run, spec.suspend, spec.parallelism, decided, spec.priority),)
