"""Workflows written in Python: the same plan as in YAML, with steps as names and formulas for CEL.

    from seedbed.crds.builder import Plan, item, params, size

    with Plan("licences", params={"limit": 12}) as plan:
        collect = plan.call("collect", "team.steps:collect", limit=params.limit)
        read = plan.agent("read", "reader", for_each=collect.output, document=item.text)
        table = plan.call("table", "team.steps:table", when=size(read) > 0, rows=read)
        plan.set(result=table.output.rows)

    print(plan.yaml())

Nothing runs here: a plan makes a manifest, which is judged like any other when the block ends.
Options of a step have their names in `spec.steps`, in Python's spelling (`for_each`, `allow_failure`,
`on_error`); every other keyword is an argument of what the step calls. An argument that has the name of
an option goes into `args={...}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import yaml
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from seedbed.crds.admission import validate
from seedbed.crds.base import API_VERSION
from seedbed.crds.formulas import (
    Formula,
    cel,
    either,
    flag,
    func,
    index,
    item,
    iteration,
    output,
    params,
    previous,
    run,
    size,
    step_formula,
)
from seedbed.crds.graph import Graph
from seedbed.crds.graph_builder import build_graph
from seedbed.crds.invalid import invalid
from seedbed.crds.step import BODIES, Step
from seedbed.crds.workflow import WorkflowSpec

__all__ = [
    "Plan",
    "StepHandle",
    "either",
    "flag",
    "func",
    "index",
    "item",
    "iteration",
    "output",
    "params",
    "previous",
    "run",
    "size",
]

OPTIONS = frozenset(Step.model_fields) - {"name", *BODIES}
"""Fields that any step may have beside its name and its body."""
_GIVEN = frozenset({"args", "inputs", "params"})
_BY_NAME = frozenset({"approvals", "param_types"})
_CEL_FIELDS = frozenset({"when", "for_each", "forEach", "until", "result"})


class StepHandle:
    """A step of a plan, to be named by others.

    `output`, `error` and `state` are formulas; the handle itself stands for its output where a value
    is wanted, and for its name where a step is.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.formula = step_formula(name).output
        self.output = self.formula
        self.error = step_formula(name).error
        self.state = step_formula(name).state

    def __getitem__(self, key: Any) -> Formula:
        return self.output[key]

    def __str__(self) -> str:
        return str(self.output)


class Plan:
    """A Workflow in the making.

    Args:
        name: of the Workflow.
        namespace: of the Workflow; the user's own where none is given.
        labels: of the Workflow.
        spec: fields of the spec in Python's spelling: `params`, `retry`, `deadline`, `on_exit` ...
    """

    def __init__(
        self,
        name: str,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> None:
        self.name = name
        self._metadata = {"name": name}
        if namespace is not None:
            self._metadata["namespace"] = namespace
        self._labels = dict(labels or {})
        self._steps: list[dict[str, Any]] = []
        self._spec: dict[str, Any] = {}
        self.set(**spec)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.check()

    def call(
        self, name: str, entry: str, /, *, args: Mapping[str, Any] | None = None, **rest: Any
    ) -> StepHandle:
        """A step that calls an entry point in the worker's image."""
        given, options = _parted(args, rest)
        return self._add(name, "call", {"entry": entry, "args": given}, options)

    def agent(
        self, name: str, agent: str, /, *, args: Mapping[str, Any] | None = None, **rest: Any
    ) -> StepHandle:
        """A step that asks an Agent."""
        given, options = _parted(args, rest)
        return self._add(name, "agent", {"name": agent, "inputs": given}, options)

    def container(self, name: str, image: str, /, **rest: Any) -> StepHandle:
        """A step that runs a container; `command`, `args`, `env` and `resources` are the container's."""
        body, options = _parted(None, rest)
        return self._add(name, "container", {"image": image, **body}, options)

    def workflow(
        self,
        name: str,
        plan: str | Plan,
        /,
        *,
        args: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> StepHandle:
        """A step that runs a template, by its name, or the steps of another plan."""
        given, options = _parted(args, rest)
        body: dict[str, Any] = {"params": given}
        if isinstance(plan, Plan):
            inner = plan._fields()
            body = {"steps": inner["steps"], "params": {**inner.get("params", {}), **given}}
            if "result" in inner:
                body["result"] = inner["result"]
        else:
            body["name"] = plan
        return self._add(name, "workflow", body, options)

    def goal(self, name: str, text: str, /, **rest: Any) -> StepHandle:
        """A step that takes a goal apart; `rules`, `model` and the limits are the goal's."""
        body, options = _parted(None, rest)
        return self._add(name, "goal", {"text": text, **body}, options)

    def approve(self, name: str, message: str, /, **rest: Any) -> StepHandle:
        """A step that waits for a person; `deadline` and `default` are the approval's."""
        body, options = _parted(None, rest)
        return self._add(name, "approve", {"message": message, **body}, options)

    def wait(self, name: str, /, *, timeout: str | None = None, **rest: Any) -> StepHandle:
        """A step that waits: `duration`, `until`, or `event` with its `timeout`."""
        body, options = _parted(None, rest)
        limit = {} if timeout is None else {"timeout": timeout}
        until = {"until": cel(body["until"])} if isinstance(body.get("until"), Formula) else {}
        return self._add(name, "wait", {**body, **until, **limit}, options)

    def branch(
        self,
        name: str,
        when: Any,
        /,
        *,
        then: Any = (),
        otherwise: Any = (),
        **options: Any,
    ) -> StepHandle:
        """A step that chooses which steps are entered: handles, or names of steps still to come."""
        body = {"when": _condition(when), "then": _names(then), "else": _names(otherwise)}
        return self._add(name, "branch", body, options)

    def step(self, name: str, /, **fields: Any) -> StepHandle:
        """Any step, with its fields as `spec.steps` has them."""
        return self._keep({"name": name, **{_written(k): _option(v, k) for k, v in fields.items()}})

    def set(self, **spec: Any) -> None:
        """Set fields of the spec, such as `result` or `on_exit`, that name steps made by now."""
        self._spec.update({_written(key): _option(value, key) for key, value in spec.items()})

    @property
    def spec(self) -> WorkflowSpec:
        """The spec.

        Raises:
            InvalidError: naming the first field that is wrong.
        """
        try:
            return WorkflowSpec.model_validate(self._fields())
        except ValidationError as error:
            raise invalid(error, "spec") from error

    @property
    def graph(self) -> Graph:
        """The graph, as an engine would run it; errors as `spec` and `build_graph` have them."""
        return build_graph(self.spec)

    def check(self) -> None:
        """Judge the plan as the admission does.

        Raises:
            InvalidError: naming the first thing that is wrong.
        """
        problems = validate(self.manifest())
        if problems:
            raise problems[0]

    def manifest(self) -> dict[str, Any]:
        """The Workflow as an object of Kubernetes."""
        metadata: dict[str, Any] = dict(self._metadata)
        if self._labels:
            metadata["labels"] = self._labels
        return {
            "apiVersion": API_VERSION,
            "kind": "Workflow",
            "metadata": metadata,
            "spec": self._fields(),
        }

    def yaml(self) -> str:
        """The manifest as YAML."""
        text: str = yaml.dump(
            self.manifest(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
        )
        return text

    def _fields(self) -> dict[str, Any]:
        return {**self._spec, **({"steps": self._steps} if self._steps else {})}

    def _add(
        self, name: str, kind: str, body: Mapping[str, Any], options: Mapping[str, Any]
    ) -> StepHandle:
        given = {_written(key): _template(value) for key, value in body.items()}
        kept = {key: value for key, value in given.items() if value not in ({}, [])}
        said = {_written(key): _option(value, key) for key, value in options.items()}
        return self._keep({"name": name, kind: kept, **said})

    def _keep(self, step: dict[str, Any]) -> StepHandle:
        self._steps.append(step)
        return StepHandle(step["name"])


class _Dumper(yaml.SafeDumper):
    """Writes every value where it stands, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the library's signature
        return True


def _parted(
    args: Mapping[str, Any] | None, rest: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs to the body of a step, and its options."""
    options = {key: value for key, value in rest.items() if key in OPTIONS}
    given = {key: value for key, value in rest.items() if key not in OPTIONS}
    return {**(args or {}), **given}, options


def _written(name: str) -> str:
    """A field as manifests spell it."""
    return to_camel(name) if "_" in name else name


def _template(value: Any) -> Any:
    """A value whose formulas become templates."""
    if isinstance(value, Formula | StepHandle):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _template(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_template(each) for each in value]
    return value


def _option(value: Any, name: str) -> Any:
    """The value of a field that takes steps by name and CEL as it is."""
    if name in _CEL_FIELDS:
        return _condition(value)
    if name in _GIVEN:
        return _template(value)
    if name == "alternatives":  # of names only: a Pool is no reference there
        return value
    if name in _BY_NAME:
        return {key: _option(each, "") for key, each in value.items()}
    if isinstance(value, StepHandle):
        return value.name
    if isinstance(value, Formula):
        return cel(value)
    if isinstance(value, Mapping):
        return {_written(key): _option(each, key) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_option(each, "") for each in value]
    if name == "pool" and isinstance(value, str):
        return {"name": value}
    return value


def _condition(value: Any) -> str:
    return value if isinstance(value, str) else cel(value)


def _names(steps: Any) -> list[str]:
    found = [steps] if isinstance(steps, StepHandle | str) else list(steps)
    return [each.name if isinstance(each, StepHandle) else each for each in found]
