"""Builds DSPy programs from Agents, as an interpreter reads a table of strategies.

A strategy is one line in `STRATEGIES`. The signature is read by the same grammar that admission
uses, never by DSPy's own, which looks names up in the frames of whoever calls it. DSPy knows the fields
under names of ours: under the user's own, `lm`, `config` or `signature` would be orders to DSPy, and
`fields` or `copy` would hide a part of its classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import dspy
import orjson
from pydantic import ValidationError

from seedbed.crds.agent import AgentSpec
from seedbed.crds.invalid import invalid
from seedbed.crds.signature import REASONING, FieldType, Signature
from seedbed.runtime.agents.errors import UnknownModuleError

Json = dict[str, Any]

STRATEGIES: Mapping[str, Callable[[Any], Any]] = {
    "Predict": dspy.Predict,
    "ChainOfThought": dspy.ChainOfThought,
}
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict[str, Any]}


@dataclass(frozen=True, slots=True)
class AgentProgram:
    """An Agent that is ready to be asked; shared by calls that run at once, so never changed.

    Attributes:
        name: of the Agent.
        spec: what the user wants of it.
        signature: inputs and outputs, with those that the strategy adds.
        module: the DSPy module.
    """

    name: str
    spec: AgentSpec
    signature: Signature
    module: Any


def fingerprint(program: Mapping[str, Any]) -> str:
    """The same for the same content, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(program, option=orjson.OPT_SORT_KEYS)).hexdigest()


def build(program: Mapping[str, Any]) -> AgentProgram:
    """The program of an AgentSpec as JSON with the Agent's name under `agentName`.

    Raises:
        UnknownModuleError: where the strategy is unknown.
        InvalidError: naming the field of the spec that is wrong.
    """
    strategy = str(program.get("strategy", "Predict"))
    if strategy not in STRATEGIES:
        raise UnknownModuleError(strategy, STRATEGIES)
    spec = _spec({key: value for key, value in program.items() if key != "agentName"})
    own = Signature.parse(spec.signature)
    signature = own.with_strategy(strategy)
    for index, demo in enumerate(spec.demos):
        # A demo may leave out the reasoning, which its author has not got.
        shown = own if REASONING not in demo else signature
        for problem in shown.demo_problems(demo, f"spec.demos[{index}]"):
            raise problem
    module = STRATEGIES[strategy](_dspy_signature(own, spec.instructions))
    for predictor in module.predictors():
        predictor.demos = [dict(demo) for demo in spec.demos]
    return AgentProgram(str(program.get("agentName", "agent")), spec, signature, module)


def _spec(fields: Json) -> AgentSpec:
    try:
        return AgentSpec.model_validate(fields)
    except ValidationError as error:
        raise invalid(error, "spec") from error


def inside(name: str) -> str:
    """The name under which DSPy knows a field of the user's."""
    return f"field_{name}"


def _dspy_signature(signature: Signature, instructions: str) -> Any:
    fields: dict[str, Any] = {
        inside(each.name): (_python_type(each.type), dspy.InputField()) for each in signature.inputs
    }
    for each in signature.outputs:
        fields[inside(each.name)] = (_python_type(each.type), dspy.OutputField())
    return dspy.Signature(fields, instructions or _instructions(signature))


def _instructions(signature: Signature) -> str:
    """What to do where the user says nothing: the sentence that DSPy would make."""
    given = ", ".join(f"`{each.name}`" for each in signature.inputs)
    wanted = ", ".join(f"`{each.name}`" for each in signature.outputs)
    return f"Given the fields {given}, produce the fields {wanted}."


def _python_type(form: FieldType) -> Any:
    if form.item is not None:
        return list[_python_type(form.item)]  # type: ignore[misc]  # a type made at run time
    if form.choices:
        return Literal[form.choices]
    return _TYPES[form.name]
