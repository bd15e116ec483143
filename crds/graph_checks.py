"""What a graph's steps may say together: who enters whom, and which fields fit which body."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from seedbed.crds.base import seconds
from seedbed.crds.expressions import LOCAL, Expression, suggestion
from seedbed.crds.failure import CLASSES, OnError, Retry
from seedbed.crds.flow import Wait
from seedbed.crds.goal import OF_THE_TREE, GoalCall, problems_of
from seedbed.crds.step import Step, listed
from seedbed.crds.templates import below
from seedbed.crds.workflow import WorkflowSpec

Refuse = Callable[[str, str], None]
"""Takes the field that is wrong and what was expected, as the end of a sentence."""

FALLBACK = "fallback"
COMPENSATE = ":compensate"
"""Behind the name of a unit: what undoes it. No step can have such a name."""
UNDO_RETRY = Retry(attempts=5, backoff="1s")
"""Retries of a compensation: what is half done is worse than what is late."""


class EarlyNode(Protocol):
    """The part of a graph's node that is looked at here."""

    @property
    def early(self) -> bool:
        """Whether the step may start before its gate has decided."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a step through, or not.

    Attributes:
        step: who decides.
        expected: whether it is expected to let the step through.
        arm: what it has to decide: the arm of a branch; `fallback` where it has to fail.
    """

    step: str
    arm: str
    expected: bool = False


def find_gates(steps: Sequence[Step], refuse: Refuse) -> dict[str, Gate]:
    """The gate of each step that has one; a step has at most one."""
    known = {step.name for step in steps}
    found: dict[str, tuple[Gate, str]] = {}
    for name, gate, field in _gates(steps):
        if name not in known:
            refuse(field, f"there is no step `{name}`")
        elif name in found:
            refuse(field, f"the step `{name}` is entered by {found[name][1]} already")
        elif name == gate.step:
            refuse(field, f"the step `{name}` cannot enter itself")
        else:
            found[name] = (gate, field)
    return {name: gate for name, (gate, _) in found.items()}


def _gates(steps: Sequence[Step]) -> Iterator[tuple[str, Gate, str]]:
    """Each step that is named as entered by another, with its gate and where that stands."""
    for position, step in enumerate(steps):
        if step.branch is not None:
            for arm, names in step.branch.arms.items():
                field = f"spec.steps[{position}].branch.{arm}"
                for place, name in enumerate(names):
                    gate = Gate(step.name, arm, arm == step.branch.expected)
                    yield name, gate, f"{field}[{place}]"
        if step.on_error is not None and step.on_error.step is not None:
            yield (
                step.on_error.step,
                Gate(step.name, FALLBACK),
                f"spec.steps[{position}].onError.step",
            )


OF_ENGINE = ("approve", "wait", "branch")
"""Bodies that the engine carries out itself."""

# Fields that only mean something where a worker executes the step.
_OF_WORK = (
    ("for_each", "forEach"),
    ("repeat", "repeat"),
    ("compensate", "compensate"),
    ("pool", "pool"),
    ("retry", "retry"),
    ("timeout", "timeout"),
)
_BODIES_OF_ALTERNATIVES = ("entry", "agent", "workflow")


def check_step(step: Step, field: str, refuse: Refuse) -> None:
    """Refuse fields of a step that do not fit together."""
    kind = next((body for body in OF_ENGINE if getattr(step, body) is not None), None)
    for name, written in _OF_WORK if kind else ():
        if getattr(step, name) is not None:
            article = "an" if kind == "approve" else "a"
            meaning = f"has no meaning for {article} {kind} step, which no worker executes"
            refuse(f"{field}.{written}", meaning)
    if step.goal is not None:
        _check_goal(step.goal, f"{field}.goal", refuse)
        if step.goal.execute is not None and step.repeat is not None:
            refuse(f"{field}.repeat", "has no meaning for a goal that is executed")
    if step.wait is not None:
        _check_wait(step.wait, f"{field}.wait", refuse)
    if step.on_error is not None:
        _check_on_error(step, step.on_error, field, refuse)
    if step.retry is not None:
        check_retry(step.retry, f"{field}.retry", refuse)
    if step.stragglers is not None and not (step.for_each and (step.agent or step.call)):
        refuse(
            f"{field}.stragglers", "only a step with forEach and an agent or a call has stragglers"
        )
    if step.ordered and (step.for_each is None or step.repeat is not None):
        refuse(f"{field}.ordered", "only a step with forEach and without repeat has ordered items")
    if step.follow and (
        step.for_each is None or step.ordered or step.repeat is not None or step.join != "all"
    ):
        expected = "only a step with forEach, without ordered, repeat and join, follows another"
        refuse(f"{field}.follow", expected)
    if step.alternatives:
        _check_alternatives(step, f"{field}.alternatives", refuse)


def _check_alternatives(step: Step, field: str, refuse: Refuse) -> None:
    if step.agent is None and step.call is None:
        refuse(field, "only a step with an agent or a call has alternatives")
    for place, one in enumerate(step.alternatives):
        named = [name for name in _BODIES_OF_ALTERNATIVES if getattr(one, name) is not None]
        if len(named) > 1:
            refuse(f"{field}[{place}]", f"names one of {listed(_BODIES_OF_ALTERNATIVES)} at most")
        elif not named and one.pool is None and one.model is None:
            refuse(f"{field}[{place}]", "names nothing that is different")
        if one.model is not None and not (one.agent or (step.agent and not named)):
            refuse(f"{field}[{place}].model", "only an Agent has a model")


def _check_goal(goal: GoalCall, field: str, refuse: Refuse) -> None:
    if not goal.rules and goal.model is None:
        refuse(field, "a goal needs rules, a model, or both")
    for problem in problems_of(goal.rules, f"{field}.rules"):
        refuse(problem.field, problem.expected)
    for name in OF_THE_TREE if goal.execute is not None else ():
        if goal.execute is not None and name in goal.execute.step:
            refuse(f"{field}.execute.step.{name}", "follows from the tree")


def _check_wait(wait: Wait, field: str, refuse: Refuse) -> None:
    if [wait.duration, wait.until, wait.event].count(None) != len(("until", "event")):
        refuse(field, "a wait has exactly one of duration, until and event")
    if wait.timeout is not None and wait.event is None:
        refuse(f"{field}.timeout", "only the wait for an event has a timeout")


def check_local(expression: Expression, step: Step | None, refuse: Refuse) -> None:
    """Refuse variables that exist only where a step repeats."""
    field = expression.field
    asks = field.endswith(".repeat.until") or ".compensate." in field
    repeats = step is not None and step.repeat is not None and not field.endswith(".when")
    follows = step is not None and step.ordered and not field.endswith((".when", ".forEach"))
    for name in sorted(expression.variables & LOCAL):
        if name == "output":
            if not asks:
                refuse(field, "`output` exists only in repeat.until and compensate")
        elif name == "previous" and follows:
            continue
        elif not repeats:
            where = "repeat or ordered items" if name == "previous" else "repeat"
            refuse(field, f"`{name}` exists only within a step that has {where}")


def check_policies(spec: WorkflowSpec, refuse: Refuse) -> None:
    """Refuse a policy of the Workflow that no step can follow."""
    if spec.on_error is not None and (
        spec.on_error.action == FALLBACK or spec.on_error.step is not None
    ):
        refuse("spec.onError", "only a step can name its fallback")
    if any(step.compensate is not None for step in spec.steps):
        return
    policies = [(f"spec.steps[{at}].onError", step.on_error) for at, step in enumerate(spec.steps)]
    for field, policy in (("spec.onError", spec.on_error), *policies):
        if policy is not None and policy.action == "compensate":
            refuse(f"{field}.action", "no step of the Workflow says how to compensate it")
            return


def check_exits(
    exits: Sequence[str], needs: Mapping[str, tuple[int, tuple[str, ...]]], refuse: Refuse
) -> None:
    """Refuse onExit steps that others wait for, or that wait for others.

    Args:
        exits: the names of the onExit steps.
        needs: of each step, its place in the spec and what it needs.
        refuse: told what is wrong.
    """
    last = frozenset(exits)
    for place, name in enumerate(exits):
        if name not in needs:
            refuse(f"spec.onExit[{place}]", f"there is no step `{name}`")
    for name, (position, needed) in needs.items():
        for need in needed:
            if (need in last) == (name in last):
                continue
            field = f"spec.steps[{position}].needs"
            if name in last:
                refuse(field, f"an onExit step runs after all others, it cannot need `{need}`")
            else:
                refuse(field, f"`{need}` is an onExit step, which runs after all others")


_OUTPUT = re.compile(r"\s*steps(?:\.([\w-]+)|\[\s*(['\"])([\w.-]+)\2\s*\])\.output\s*")


def source_of(for_each: str) -> str:
    """The step whose output a forEach is; empty where it is anything else."""
    match = _OUTPUT.fullmatch(for_each)
    return (match[1] or match[3]) if match else ""


def may_yield(step: Step) -> bool:
    """Whether a step's items may be followed: it runs once, at one place, and nothing stands for it."""
    return (
        step.call is not None
        and step.for_each is None
        and step.repeat is None
        and not step.alternatives
        and (step.on_error is None or step.on_error.action != FALLBACK)
    )


def may_start_early(step: Step) -> bool:
    """Whether a step has no effect before its result counts, and no way of its own to go."""
    works = step.agent is not None or step.call is not None
    plain = step.when is None and step.for_each is None and step.repeat is None
    return step.pure and works and plain and step.join == "all"


def check_speculation(spec: WorkflowSpec, nodes: Mapping[str, EarlyNode], refuse: Refuse) -> None:
    """Refuse a branch that is to start steps early and names none that may."""
    for position, step in enumerate(spec.steps):
        guess = step.branch.speculate if step.branch is not None else None
        if step.branch is None or guess is None:
            continue
        field = f"spec.steps[{position}].branch.speculate"
        if (guess.arm is None) != (guess.confidence is None):
            missing = "confidence" if guess.arm else "arm"
            refuse(f"{field}.{missing}", "arm and confidence are given both, or neither")
        expected = step.branch.expected
        if expected and not any(
            nodes[name].early for name in step.branch.arms[expected] if name in nodes
        ):
            refuse(
                field,
                f"no step of `{expected}` may start early: that takes `pure`, an agent or a call, and "
                "no when, forEach, repeat or join",
            )


def check_approvals(spec: WorkflowSpec, refuse: Refuse) -> None:
    """Refuse decisions about what is no approve step."""
    known = {step.name for step in spec.steps if step.approve is not None}
    for name in spec.approvals:
        if name not in known:
            expected = f"there is no approve step `{name}`{suggestion(name, dict.fromkeys(known))}"
            refuse(below("spec.approvals", name), expected)


def check_fork(spec: WorkflowSpec, refuse: Refuse) -> None:
    """Refuse steps to execute again that the plan does not have."""
    known = dict.fromkeys(step.name for step in spec.steps)
    for at, name in enumerate(spec.fork_from.again if spec.fork_from is not None else ()):
        if name not in known:
            expected = f"there is no step `{name}`{suggestion(name, known)}"
            refuse(f"spec.forkFrom.again[{at}]", expected)


def _check_on_error(step: Step, policy: OnError, field: str, refuse: Refuse) -> None:
    if step.allow_failure:
        refuse(
            f"{field}.allowFailure",
            "says the same as onError with the action continue: write one of them",
        )
    if (policy.action == FALLBACK) != (policy.step is not None):
        refuse(f"{field}.onError", "names a step where its action is fallback, and only there")
    if policy.action == FALLBACK and step.for_each is not None:
        refuse(f"{field}.onError.action", "a step with forEach cannot have a fallback")


def check_retry(retry: Retry, field: str, refuse: Refuse) -> None:
    """Refuse a policy that contradicts itself or waits for a class that does not exist."""
    if seconds(retry.backoff) > seconds(retry.max_backoff):
        expected = f"must be at most maxBackoff, which is {retry.max_backoff}"
        refuse(f"{field}.backoff", expected)
    for place, name in enumerate(retry.on):
        if name.endswith("_error") and name not in CLASSES:
            known = dict.fromkeys(CLASSES)
            expected = (
                f"there is no class `{name}`{suggestion(name, known)}; there are {listed(CLASSES)}"
            )
            refuse(f"{field}.on[{place}]", expected)


def order_needs(
    needs: Mapping[str, tuple[str, ...]], gates: Mapping[str, Gate]
) -> Mapping[str, tuple[str, ...]]:
    """What each step waits for in the end: a step with a fallback ends once that has, see `ended`.

    A fallback itself waits for no more than that the step fails.
    """
    fallbacks = {gate.step: name for name, gate in gates.items() if gate.arm == FALLBACK}
    if not fallbacks:
        return needs
    found = dict(needs)
    for name, needed in needs.items():
        ends = [_end(need) for need in needed if fallbacks.get(need, name) != name]
        if ends:
            found[name] = (*needed, *ends)
    for step, name in fallbacks.items():
        # One edge more for each fallback, however long the chain and however many wait for it.
        found[_end(step)] = (name, *((_end(name),) if name in fallbacks else ()))
    return found


_ENDED = ":ended"


def _end(step: str) -> str:
    return f"{step}{_ENDED}"


def ended(cycle: Sequence[str]) -> list[str]:
    """The steps on a cycle of `order_needs`, each once where its end stands beside it."""
    names = [name.removesuffix(_ENDED) for name in cycle]
    if len(set(names)) == 1:
        return names[:1]
    return [name for at, name in enumerate(names) if name != names[at - 1]]
