"""Workflows as steps of others: what such a step says, and what parameters a Workflow takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from seedbed.crds.base import NAMED, OPEN, Model, Name
from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import suggestion
from seedbed.crds.templates import below

MAX_DEPTH = 10
"""How deep Workflows may be nested in each other, the outermost one counted."""

_FORMS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list, tuple),
    "object": (dict,),
}


class ParamType(Model):
    """What a parameter may be."""

    type: Literal["string", "integer", "number", "boolean", "list", "object"] = Field(
        description="Type of the value.", examples=["integer"]
    )
    required: bool = Field(
        default=False,
        description="Whether a run must be given it. `spec.params` holds values for all others.",
        examples=[True],
    )
    description: str = Field(
        default="",
        description="What it is for.",
        max_length=1024,
        examples=["How many documents are read."],
    )


class WorkflowCall(Model):
    """Runs another Workflow to its end; its result is the step's output.

    Either a template of the same namespace, by `name`, or `steps` that stand here.
    """

    name: Name | None = Field(
        default=None,
        description="A Workflow of the same namespace with `spec.template`.",
        examples=["review-one"],
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Its parameters. A string may hold `${ CEL }`.",
        examples=[{"document": "${item}"}],
        json_schema_extra=OPEN,
    )
    steps: tuple[dict[str, Any], ...] = Field(
        default=(),
        description=(
            "Steps in the form of `spec.steps`. Their expressions see these steps and `params` only."
        ),
        max_length=1000,
        examples=[[{"name": "hello", "call": {"entry": "builtins:dict"}}]],
        json_schema_extra=NAMED,
    )
    result: str | None = Field(
        default=None,
        description="CEL of the result, for `steps`.",
        min_length=1,
        max_length=4096,
        examples=["steps.hello.output"],
    )


def check_params(
    types: Mapping[str, ParamType], given: Mapping[str, Any], field: str = "spec.params"
) -> None:
    """Pass where the parameters are as their types say; anything goes where there are none.

    Raises:
        InvalidError: naming the first parameter that is missing, unknown or of another type.
    """
    for name in given:
        if types and name not in types:
            known = f"; there are {', '.join(sorted(types))}"
            expected = f"is no parameter of this Workflow{suggestion(name, types) or known}"
            raise InvalidError(below(field, name), expected)
    for name, form in types.items():
        value = given.get(name)
        if value is None:
            if form.required:
                raise InvalidError(below(field, name), f"is required, as {_a(form.type)}")
            continue
        boolean = isinstance(value, bool) and form.type != "boolean"
        if boolean or not isinstance(value, _FORMS[form.type]):
            expected = f"must be {_a(form.type)}, not {_a(_form_of(value))}"
            raise InvalidError(below(field, name), expected)


def _form_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, forms in _FORMS.items() if isinstance(value, forms)), "value")


def _a(form: str) -> str:
    return f"an {form}" if form[0] in "aeiou" else f"a {form}"
