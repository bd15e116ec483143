"""Makes a Workflow's graph of its spec, and finds all that is wrong with it.

Pure; takes time linear in steps plus edges.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from pydantic import ValidationError

from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Expression, suggestion
from seedbed.crds.goal import GoalWork
from seedbed.crds.graph import Graph, Node
from seedbed.crds.graph_checks import (
    COMPENSATE,
    OF_ENGINE,
    UNDO_RETRY,
    check_approvals,
    check_exits,
    check_fork,
    check_local,
    check_policies,
    check_speculation,
    check_step,
    ended,
    find_gates,
    may_start_early,
    may_yield,
    order_needs,
    source_of,
)
from seedbed.crds.ordering import drawn, find_cycle
from seedbed.crds.step import BODIES, Step, listed
from seedbed.crds.sub_workflow import MAX_DEPTH, WorkflowCall
from seedbed.crds.templates import Template, below
from seedbed.crds.workflow import WorkflowSpec


def build_graph(spec: WorkflowSpec) -> Graph:
    """Compile a Workflow.

    Raises:
        InvalidError: naming the first thing that is wrong; see `graph_problems` for all.
    """
    found = _Builder(spec)
    if found.errors:
        raise found.errors[0]
    return found.graph()


def graph_problems(spec: WorkflowSpec) -> list[InvalidError]:
    """All that keeps a Workflow from running; empty where it can."""
    return _Builder(spec).errors


def refuse_containers(spec: WorkflowSpec) -> None:
    """Pass where a plan that runs inside of another has no container step.

    Raises:
        InvalidError: naming the step: its Pod belongs to an object, and such a run has none.
    """
    for position, step in enumerate(spec.steps):
        if step.container is not None:
            expected = "container steps run in the outermost Workflow only"
            raise InvalidError(f"spec.steps[{position}].container", expected)


def inline_spec(call: WorkflowCall) -> WorkflowSpec:
    """The spec of the steps that stand in a `workflow` step, without parameters.

    Raises:
        InvalidError: with the field as in a spec of its own.
    """
    raw = {"steps": call.steps, "result": call.result}
    try:
        return WorkflowSpec.model_validate_json(orjson.dumps(raw), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = "spec"
        for part in first["loc"]:
            field = f"{field}[{part}]" if isinstance(part, int) else below(field, str(part))
        raise InvalidError(field, first["msg"][:1].lower() + first["msg"][1:]) from error


class _Builder:
    """Compiles a spec and collects everything that is wrong with it, in the order of the spec."""

    def __init__(self, spec: WorkflowSpec, depth: int = 1) -> None:
        self.errors: list[InvalidError] = []
        self._depth = depth
        self._steps = spec.steps
        self._positions: dict[str, int] = {}
        for position, step in enumerate(spec.steps):
            first = self._positions.setdefault(step.name, position)
            if first != position:
                self._refuse(
                    f"spec.steps[{position}].name",
                    f"the name `{step.name}` is taken by spec.steps[{first}]",
                )
        self._gates = find_gates(spec.steps, self._refuse)
        self._exits = frozenset(spec.on_exit)
        self._exit_names = spec.on_exit
        self._nodes: dict[str, Node] = {}
        for position, step in enumerate(spec.steps):
            self._nodes.setdefault(step.name, self._node(step, position))
        check_approvals(spec, self._refuse)
        check_fork(spec, self._refuse)
        check_speculation(spec, self._nodes, self._refuse)
        check_policies(spec, self._refuse)
        if spec.on_exit:
            places = {name: (node.position, node.needs) for name, node in self._nodes.items()}
            check_exits(spec.on_exit, places, self._refuse)
        self._result = self._expression(spec.result, "spec.result")
        if self._result:
            self._check_known(self._result.steps, "spec.result")
            self._check_item(self._result, "spec.result", for_each=False)
            check_local(self._result, None, self._refuse)
        self._dependents = self._reverse()
        if not self.errors:
            self._check_cycles()

    def graph(self) -> Graph:
        exits = tuple(dict.fromkeys(self._exit_names))
        return Graph(self._nodes, self._dependents, self._result, exits)

    def _refuse(self, field: str, expected: str) -> None:
        self.errors.append(InvalidError(field, expected))

    def _node(self, step: Step, position: int) -> Node:
        field = f"spec.steps[{position}]"
        when = self._expression(step.when, f"{field}.when")
        for_each = self._expression(step.for_each, f"{field}.forEach")
        choice, until = self._conditions(step, field)
        body = self._body(step, field)
        read = self._reads(step, (when, for_each, choice, until), body)
        needs = self._needs(step, field, read)
        gate = self._gates.get(step.name)
        # What lets the step through does not count among those that have to succeed.
        at_least = self._join(step, len(needs) - (gate is not None and gate.step in needs), field)
        if gate is not None:
            needs.setdefault(gate.step)
        return Node(
            step,
            position,
            tuple(needs),
            when,
            for_each,
            body,
            at_least,
            gate,
            choice,
            until,
            self._undo(step, position),
            any(getattr(step, kind) is not None for kind in OF_ENGINE),
            gate is not None and gate.expected and gate.step not in read and may_start_early(step),
            step.repeat is not None or (step.goal is not None and step.goal.execute is not None),
            self._follows(step, for_each, (when, *body.expressions), field),
        )

    def _follows(
        self,
        step: Step,
        for_each: Expression | None,
        parts: Iterable[Expression | None],
        field: str,
    ) -> str:
        """The step whose items start this one's."""
        if not step.follow or for_each is None:
            return ""
        source = source_of(step.for_each or "")
        if source not in self._positions or not may_yield(self._steps[self._positions[source]]):
            expected = (
                "takes a forEach that is `steps.NAME.output` of a call without forEach, repeat, "
                "alternatives and fallback"
            )
            self._refuse(f"{field}.follow", expected)
            return ""
        for part in filter(None, parts):
            if source in part.steps:
                self._refuse(
                    part.field, f"cannot read `{source}`, which the step does not wait for"
                )
        return source

    def _conditions(self, step: Step, field: str) -> tuple[Expression | None, Expression | None]:
        """What a branch chooses by, and what a wait or a loop ends on."""
        choice = until = None
        if step.branch is not None:
            choice = self._expression(step.branch.when, f"{field}.branch.when")
        if step.wait is not None:
            until = self._expression(step.wait.until, f"{field}.wait.until")
        if step.repeat is not None:
            until = self._expression(step.repeat.until, f"{field}.repeat.until")
            if until and until.flags:
                self._refuse(until.field, "cannot ask for flags")
        return choice, until

    def _reads(
        self, step: Step, conditions: Iterable[Expression | None], body: Template
    ) -> set[str]:
        """The steps that a step's expressions read."""
        read: set[str] = set()
        per_item = step.for_each is not None
        for part in (*filter(None, conditions), *body.expressions):
            read |= part.steps
            self._check_known(part.steps, part.field)
            self._check_item(part, part.field, for_each=per_item and not _before_items(part))
            check_local(part, step, self._refuse)
        return read

    def _needs(self, step: Step, field: str, read: set[str]) -> dict[str, None]:
        """What a step needs, in order: what the user names, then what its expressions read."""
        for place, need in enumerate(step.needs):
            if need not in self._positions:
                self._check_known((need,), f"{field}.needs[{place}]")
        if step.name in self._exits:
            read &= self._exits  # of all others they see what is left
        needs = dict.fromkeys((*step.needs, *sorted(read)))
        if step.name in needs:
            self._refuse(field, f"the step `{step.name}` cannot need itself")
        return needs

    def _undo(self, step: Step, position: int) -> Node | None:
        """What compensates a step, as a step of its own."""
        if step.compensate is None:
            return None
        field = f"spec.steps[{position}].compensate"
        name = f"{step.name}{COMPENSATE}"
        call = Step.model_construct(
            name=name, call=step.compensate, pool=step.pool, timeout=step.timeout, retry=UNDO_RETRY
        )
        try:
            body = Template.parse(step.compensate.args, f"{field}.args")
        except InvalidError as error:
            self.errors.append(error)
            return None
        for expression in body.expressions:
            self._check_known(expression.steps, expression.field)
            self._check_item(expression, expression.field, for_each=step.for_each is not None)
            check_local(expression, step, self._refuse)
        return Node(call, position, (), None, None, body)

    def _join(self, step: Step, needs: int, field: str) -> int | None:
        if step.join == "all":
            return None
        at_least = 1 if step.join == "any" else step.join
        if at_least > needs:
            self._refuse(f"{field}.join", f"the step has {needs} needs, {at_least} cannot succeed")
        return at_least

    def _expression(self, text: str | None, field: str) -> Expression | None:
        if text is None:
            return None
        try:
            return Expression.parse(text, field)
        except InvalidError as error:
            self.errors.append(error)
            return None

    def _body(self, step: Step, field: str) -> Template:
        kinds = [kind for kind in BODIES if getattr(step, kind) is not None]
        if len(kinds) != 1:
            self._refuse(
                field,
                f"a step has exactly one of {listed(BODIES)}; "
                f"`{step.name}` has {' and '.join(kinds) or 'none'}",
            )
            return Template.parse(None, field)
        check_step(step, field, self._refuse)
        if step.workflow is not None:
            self._check_inline(step.workflow, f"{field}.workflow")
        if step.goal is not None and step.goal.execute is not None:
            self._check_work(step.goal.execute, f"{field}.goal.execute")
        try:
            return _template(step, field)
        except InvalidError as error:
            self.errors.append(error)
            return Template.parse(None, field)

    def _check_inline(self, call: WorkflowCall, field: str) -> None:
        """A plan inside of the plan: its own steps and parameters, judged like any other."""
        if (call.name is None) == (not call.steps):
            self._refuse(field, "a workflow step has exactly one of name and steps")
        elif call.name is not None and call.result is not None:
            self._refuse(f"{field}.result", "a template has a result of its own")
        elif self._depth >= MAX_DEPTH:
            self._refuse(field, f"Workflows are nested at most {MAX_DEPTH} deep")
        elif call.steps:
            try:
                inner = inline_spec(call)
            except InvalidError as error:
                self.errors.append(error.inside(field))
                return
            found = _Builder(inner, self._depth + 1).errors
            try:
                refuse_containers(inner)
            except InvalidError as error:
                found.append(error)
            self.errors += [error.inside(field) for error in found]

    def _check_work(self, work: GoalWork, field: str) -> None:
        """What is done for each leaf of a goal's tree: the one step of the plan that does them."""
        first = len(self.errors)
        self._check_inline(work.plan, field)
        for place, error in enumerate(self.errors[first:], first):
            where = error.field.replace(f"{field}.steps[0]", f"{field}.step", 1)
            expected = error.expected
            if where == f"{field}.step.forEach":  # which the user has not written
                where, expected = f"{field}.step", "takes a step that a worker executes"
            self.errors[place] = InvalidError(where, expected)

    def _check_known(self, steps: Iterable[str], field: str) -> None:
        for name in sorted(steps):
            if name not in self._positions:
                self._refuse(field, f"there is no step `{name}`{suggestion(name, self._positions)}")

    def _check_item(self, expression: Expression, field: str, *, for_each: bool) -> None:
        if expression.per_item and not for_each:
            name = "item" if "item" in expression.variables else "index"
            where = (
                "forEach itself cannot read it"
                if field.endswith(".forEach")
                else "add forEach to the step"
            )
            if field == "spec.result":
                where = "the result cannot read it"
            self._refuse(field, f"`{name}` exists only within a step that has forEach; {where}")

    def _reverse(self) -> dict[str, tuple[str, ...]]:
        dependents: dict[str, list[str]] = {name: [] for name in self._nodes}
        for name, node in self._nodes.items():
            for need in node.needs:
                if need in dependents:
                    dependents[need].append(name)
        return {name: tuple(found) for name, found in dependents.items()}

    def _check_cycles(self) -> None:
        needs = order_needs({name: node.needs for name, node in self._nodes.items()}, self._gates)
        if cycle := ended(find_cycle(needs)):
            position = self._positions[cycle[0]]
            self._refuse(
                f"spec.steps[{position}].needs", f"the steps wait for each other: {drawn(cycle)}"
            )


def _before_items(expression: Expression) -> bool:
    return expression.field.endswith((".forEach", ".branch.when", ".wait.until"))


def _template(step: Step, field: str) -> Template:
    if step.agent is not None:
        return Template.parse(step.agent.inputs, f"{field}.agent.inputs")
    if step.call is not None:
        return Template.parse(step.call.args, f"{field}.call.args")
    if step.goal is not None:
        return Template.parse({"text": step.goal.text}, f"{field}.goal")
    if step.workflow is not None:
        return Template.parse(step.workflow.params, f"{field}.workflow.params")
    if step.approve is not None:
        message = {"message": step.approve.message}
        return Template.parse(message, f"{field}.approve")
    if step.container is None:
        return Template.parse(None, field)
    body = {"command": list(step.container.command), "args": list(step.container.args)}
    return Template.parse(body, f"{field}.container")
