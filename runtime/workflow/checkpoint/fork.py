"""What a new run takes over from an earlier one: the results that its own plan would make again. Pure.

A step is not executed again where the earlier run ended it, its definition is the same in both plans, it
reads no parameter that differs, nobody wants it executed again, and all that it needs is taken over too.
A loop that was under way goes on with the iteration at hand. What else was under way begins anew, and so
does every step that failed, but where its plan goes on without it, and every step that was compensated.
What follows a run's outcome (onExit) follows the new run's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from seedbed.crds.graph import Graph
from seedbed.crds.graph_checks import COMPENSATE
from seedbed.crds.step import Step
from seedbed.runtime.workflow.plan import RunPlan
from seedbed.runtime.workflow.records import (
    Record,
    StepExpanded,
    StepFailed,
    StepRepeated,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.state import LATER
from seedbed.runtime.workflow.units import origin_of

Result = StepSucceeded | StepRepeated | StepSkipped | StepExpanded | StepFailed
"""Records that a run may take over."""

_UNTOUCHED = frozenset({"needs", "pool", "retry", "timeout", "estimate", "alternatives"})
"""Fields of a step that say how it is run, not what it gives."""
_GOES_ON = ("continue", "skip")
# Looser than CEL: text that only looks like a parameter costs one execution, one missed a wrong result.
_PARAM = re.compile(r"\bparams\b(?:\s*\.\s*(\w+)|\s*\[\s*(?:\"([^\"\\]*)\"|'([^'\\]*)')\s*\])?")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a run begins with.

    Attributes:
        records: for its journal, in an order that can be applied.
        taken: steps of the plan that need not be executed; not those whose loop goes on.
        again: steps that the earlier run had ended and that are executed again, in the plan's order.
    """

    records: tuple[Result, ...]
    taken: int
    again: tuple[str, ...]


def inherited(
    records: Sequence[Record], before: RunPlan, after: RunPlan, wanted: Iterable[str] = ()
) -> Inherited:
    """What a run of the plan `after` takes over from the records of one of the plan `before`.

    Args:
        records: of the earlier run.
        before: its plan.
        after: the new run's plan.
        wanted: steps that the user wants executed again.
    """
    ended = _ended(_results(records, after))
    anew = _anew(before, after, _broken(records, after).union(wanted))
    kept = tuple(one for one in _results(records, after) if _step(one) not in anew)
    again = tuple(name for name in after.graph.nodes if name in ended and name in anew)
    return Inherited(kept, len(_ended(kept)), again)


def changed_params(before: Mapping[str, Any], after: Mapping[str, Any]) -> frozenset[str]:
    """Names of the parameters that are not the same in both."""
    missing = object()
    names = before.keys() | after.keys()
    return frozenset(
        name for name in names if before.get(name, missing) != after.get(name, missing)
    )


def reads(step: Step, params: frozenset[str]) -> bool:
    """Whether a step's text names one of the parameters, or all of them at once."""
    return bool(params) and any(
        name is None or name in params
        for text in _texts(step.model_dump(mode="python"))
        for name in _params(text)
    )


def _anew(before: RunPlan, after: RunPlan, named: set[str]) -> set[str]:
    """Steps of the new plan whose earlier result does not count."""
    changed = changed_params(before.spec.params, after.spec.params)
    anew: set[str] = set()
    for name in _in_order(after.graph):
        node, old = after.graph.nodes[name], before.graph.nodes.get(name)
        if (
            old is None
            or name in named
            or not anew.isdisjoint(node.needs)
            or _definition(old.step) != _definition(node.step)
            or reads(node.step, changed)
        ):
            anew.add(name)
    return anew


def _in_order(graph: Graph) -> Iterator[str]:
    for level in graph.levels:
        yield from level


def _definition(step: Step) -> dict[str, Any]:
    return step.model_dump(mode="python", exclude=set(_UNTOUCHED))


def _results(records: Sequence[Record], plan: RunPlan) -> Iterator[Result]:
    """The results of steps that the plan has, and whose failure it allows.

    Iterations of a loop that has ended are of use where it ended well and each of them can be undone.
    """
    own = plan.graph.nodes.keys() - set(plan.graph.exits)
    well = {record.key for record in records if isinstance(record, StepSucceeded)}
    badly = {record.key for record in records if _gives_up(record)}
    for record in records:
        match record:
            case StepRepeated(key) if key.step in own:
                goes_on = key not in well and key not in badly
                if goes_on or (key in well and plan.graph.nodes[key.step].undoes_each):
                    yield record
            case StepSucceeded() | StepSkipped() | StepExpanded():
                if _step(record) in own and COMPENSATE not in _step(record):
                    yield record
            case StepFailed(key, retry_at=None, then=then):
                if key.step in own and then != LATER and _may_fail(record, plan):
                    yield record


def _gives_up(record: Record) -> TypeGuard[StepFailed]:
    """Whether a unit has failed for good with it."""
    return isinstance(record, StepFailed) and record.retry_at is None and record.then != LATER


def _ended(results: Iterable[Result]) -> set[str]:
    """The steps of which something has ended."""
    return {_step(one) for one in results if not isinstance(one, StepRepeated)}


def _broken(records: Iterable[Record], plan: RunPlan) -> set[str]:
    """Steps that failed for good and may not, and steps that were compensated, if only begun."""
    found: set[str] = set()
    for record in records:
        if _gives_up(record) and not _may_fail(record, plan):
            found.add(record.key.step)
        if isinstance(record, StepScheduled | StepSucceeded | StepFailed):
            unit, undone, _ = record.key.step.partition(COMPENSATE)
            if undone:
                found.add(origin_of(unit))
    return found


def _may_fail(record: StepFailed, plan: RunPlan) -> bool:
    """Whether the plan goes on without the step; one that another stands in for is tried again."""
    node = plan.graph.nodes.get(record.key.step)
    if node is None:
        return False
    policy = node.step.on_error or plan.spec.on_error
    return node.step.allow_failure or (policy is not None and policy.action in _GOES_ON)


def _step(record: Result) -> str:
    return record.step if isinstance(record, StepExpanded) else record.key.step


def _params(text: str) -> Iterator[str | None]:
    """Names of the parameters that a text reads; None where it reads all of them."""
    for found in _PARAM.finditer(text):
        yield next((name for name in found.groups() if name is not None), None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
