"""The commands that read: get, describe, logs, watch, result. Each returns its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from seedbed.cli import output, progress
from seedbed.cli.following import step_of
from seedbed.cli.source import Source, kind_named
from seedbed.controllers.plan import Raw
from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.crds.kinds import BY_NAME, KINDS, Kind

_WORKFLOW = BY_NAME["Workflow"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects the user wants: a `kind`, or `kind/name` in one word, or all."""

    kind: str | None
    name: str | None
    namespace: str | None
    everywhere: bool

    def parsed(self) -> tuple[tuple[Kind, ...], str | None]:
        """The kinds, and the name of the one object."""
        if self.kind in (None, "all", "seedbed"):
            return KINDS, None
        kind, _, name = str(self.kind).partition("/")
        if name and self.name:
            raise InvalidError("NAME", "is given twice")
        wanted = name or self.name
        if wanted and self.everywhere:
            raise InvalidError("NAME", "cannot go with --all-namespaces")
        return (kind_named(kind),), wanted


async def get(source: Source, wanted: Selection, form: str) -> int:
    """Prints objects as a table for each kind, or as JSON or YAML."""
    kinds, name = wanted.parsed()
    namespace = None if wanted.everywhere else wanted.namespace or source.namespace
    by_kind: dict[str, list[Raw]] = {}
    for kind in kinds:
        if name and namespace:
            by_kind[kind.name] = [await source.object(kind, namespace, name)]
        else:
            by_kind[kind.name] = await source.objects(kind, namespace)
    found = [obj for objects in by_kind.values() for obj in objects]
    if form in ("json", "yaml"):
        everything = {"apiVersion": "v1", "kind": "List", "items": found}
        print(output.serialised(found[0] if name else everything, form))
        return 0
    console = output.console()
    if not found:
        output.console(stderr=True).print(
            f"No objects found in namespace {namespace}." if namespace else "No objects found."
        )
    for title, objects in by_kind.items():
        if objects:
            if len(kinds) > 1:
                console.print(f"[bold]{title}[/bold]")
            shown = output.objects(
                BY_NAME[title], objects, wide=form == "wide", namespaces=wanted.everywhere
            )
            console.print(shown, *([""] if len(kinds) > 1 else []), sep="\n", end="")
    return 0


async def describe(source: Source, kind: str, name: str, namespace: str | None) -> int:
    """Prints everything about one object."""
    obj = await source.object(kind_named(kind), namespace or source.namespace, name)
    console = output.console()
    for part in output.described(obj, await source.events(obj)):
        console.print(part)
    return 0


async def logs(
    source: Source, workflow: str, namespace: str | None, step: str | None, workers: int
) -> int:
    """Prints the step log; with `workers`, what the worker pods wrote last."""
    space = namespace or source.namespace
    await source.object(_WORKFLOW, space, workflow)
    steps = await source.steps(space, workflow)
    chosen = [one for one in steps if step is None or _is(one, step)]
    if step is not None and not chosen:
        raise NotFoundError("step", step)
    for one in chosen:
        print(_log_line(one))
    if not chosen:
        output.console(stderr=True).print("No step has ended yet.")
    if workers:
        for pod, text in (await _worker_logs(source, space, workers)).items():
            print(f"\n== {pod}\n{text.rstrip()}")
    return 0


async def follow(
    source: Source, workflow: str, namespace: str | None, step: str | None = None
) -> int:
    """Prints the step log and goes on with it until the run is over."""
    space = namespace or source.namespace
    await source.object(_WORKFLOW, space, workflow)
    async for event in source.follow(space, workflow):
        told = step_of(event)
        if told is not None and (step is None or _is(told, step)):
            print(_log_line(told), flush=True)
        elif event["kind"] == "gap":
            print("-- earlier entries of the journal are not kept", flush=True)
    return 0


async def items(source: Source, workflow: str, step: str, namespace: str | None) -> int:
    """Prints what a step yields, a line of JSON for each item, until it has ended."""
    state = ""
    async for event in source.items(namespace or source.namespace, workflow, step):
        match event["kind"]:
            case "item":
                print(json.dumps(event["data"]["item"], ensure_ascii=False), flush=True)
            case "restart":
                print(f"-- attempt {event['data']['attempt']} begins again", file=sys.stderr)
            case "end":
                state = event["data"].get("state", "")
                if state != "Succeeded":
                    why = event["data"].get("error")
                    print(f"-- {state}{': ' + why if why else ''}", file=sys.stderr)
    return 0 if state == "Succeeded" else 1


async def watch(
    source: Source, workflow: str, namespace: str | None, *, steps: bool = False
) -> int:
    """Shows progress until the run ends, with `steps` each step too; then its result."""
    obj: Raw = {}
    if steps:
        await follow(source, workflow, namespace)
    with progress.shown(output.console()) as display:
        async with source.watch(_WORKFLOW, namespace or source.namespace, workflow) as changes:
            async for obj in changes:
                display.workflow(obj)
                if progress.ended(obj):
                    break
            else:
                raise NotFoundError("Workflow", workflow)
    console = output.console()
    console.print(output.conditions([obj]))
    if (value := output.at(obj, ".status.result")) is not None:
        console.print()
        for part in output.result(value):
            console.print(part)
    return 0 if output.at(obj, ".status.phase") == "Succeeded" else 1


async def result(source: Source, workflow: str, namespace: str | None, form: str) -> int:
    """Prints the result: from the status where it stands there, else from the API."""
    space = namespace or source.namespace
    obj = await source.object(_WORKFLOW, space, workflow)
    phase = output.at(obj, ".status.phase")
    if phase != "Succeeded":
        raise InvalidError(
            f"Workflow {workflow}", f"has no result: its phase is {phase or 'Pending'}"
        )
    value = output.at(obj, ".status.result")
    if value is None:
        value = await source.result(space, workflow)
    if form in ("json", "yaml"):
        print(output.serialised(value, form))
        return 0
    console = output.console()
    for part in output.result(value):
        console.print(part)
    return 0


def _is(step: Mapping[str, Any], wanted: str) -> bool:
    name = str(step["name"])
    return name == wanted or name.partition("[")[0] == wanted


def _log_line(step: Mapping[str, Any]) -> str:
    """Time, state, step with its attempt and worker, and why it failed."""
    when = step.get("finished") or step.get("started") or step.get("at")
    clock = datetime.fromtimestamp(when, UTC).strftime("%H:%M:%S") if when else "--:--:--"
    took = ""
    if step.get("finished") and step.get("started"):
        took = f" {step['finished'] - step['started']:.2f}s"
    attempt = f" attempt {step['attempt']}" if step.get("attempt", 1) > 1 else ""
    worker = f" on {step['worker']}" if step.get("worker") else ""
    why = step.get("error")
    error = f": {why['message'] if isinstance(why, Mapping) else why}" if why else ""
    return f"{clock} {step['state']:<9} {step['name']}{attempt}{took}{worker}{error}"


async def _worker_logs(source: Source, namespace: str, lines: int) -> dict[str, str]:
    pod_logs = getattr(source, "pod_logs", None)
    if pod_logs is None:
        raise InvalidError("--workers", "an embedded run has no worker pods")
    told: dict[str, str] = await pod_logs(namespace, "seedbed.dev/pool", lines)
    return told
