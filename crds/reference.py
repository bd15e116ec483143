"""Writes the reference page of a kind: every field with its limits, and what `kubectl` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import orjson
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from seedbed.crds.base import API_VERSION
from seedbed.crds.kinds import COMMON_CONDITIONS, Kind
from seedbed.crds.schema import definition

_LIMITS = (
    ("minimum", "≥ {}"),
    ("maximum", "≤ {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} keys"),
)


def page(kind: Kind, example: str) -> str:
    """The page as Markdown, with a full example."""
    root = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    properties = root["properties"]
    lines = [
        f"# {kind.name}",
        "",
        "<!-- Made by `python -m seedbed.crds.generate` from the models in crds/; not for editing. -->",
        "",
        root["description"].splitlines()[0],
        "",
        f"`apiVersion: {API_VERSION}`, `kind: {kind.name}`, short name `{kind.short}`, category `seedbed`.",
    ]
    lines += ["", "## Example", "", "```yaml", example.strip(), "```", ""]
    lines += ["## spec", "", *_table(kind.spec, properties["spec"], "")]
    lines += ["", "## status", "", *_table(kind.status, properties["status"], "")]
    lines += ["", "## Conditions", "", "| Type | Meaning |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in (*COMMON_CONDITIONS, *kind.conditions)]
    lines += [
        "",
        f"Every reason that they give: [conditions and reasons](conditions.md#{kind.name.lower()}).",
        "",
        "## Columns of `kubectl get`",
        "",
        "| Column | From | With `-o wide` only |",
        "|---|---|---|",
    ]
    lines += [
        f"| {column.name} | `{_cell(column.path)}` | {'yes' if column.priority else ''} |"
        for column in kind.columns
    ]
    rules = [*_rules(root, "")]
    lines += ["", "## Rules", "", "What the API server refuses beside the limits above:", ""]
    lines += [f"- {message}" for message in rules]
    return "\n".join(lines) + "\n"


def _table(model: type[BaseModel], schema: dict[str, Any], path: str) -> Iterator[str]:
    yield "| Field | Type | Default | Limits | Meaning | Example |"
    yield "|---|---|---|---|---|---|"
    yield from _rows(model, schema, path)


def _rows(model: type[BaseModel], schema: dict[str, Any], path: str) -> Iterator[str]:
    for field in model.model_fields.values():
        name = field.alias or ""
        member = schema["properties"][name]
        # A field made of others has its example in theirs.
        example = f"`{_json(field.examples[0])}`" if field.examples else ""
        cells = (
            f"`{path}{name}`",
            _type(member),
            "**required**" if field.is_required() else _default(member),
            _limits(member),
            field.description or "",
            example,
        )
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"
        inner = _model_of(field)
        if inner is not None:
            nested, below = _below(member)
            yield from _rows(inner, nested, f"{path}{name}{below}.")


def _below(member: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The schema of what a field holds, and how its path goes on: into a list, a map or an object."""
    if member.get("type") == "array":
        return member["items"], "[]"
    if "additionalProperties" in member:
        return member["additionalProperties"], ".NAME"
    return member, ""


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    for form in (field.annotation, *get_args(field.annotation)):
        if isinstance(form, type) and issubclass(form, BaseModel):
            return form
    return None


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return "word or integer"
    form = str(schema.get("type", "any"))
    if form == "array":
        return f"list of {_type(schema['items'])}"
    if form == "object" and "additionalProperties" in schema:
        return f"object of {_type(schema['additionalProperties'])}"
    return form


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "" if default in (None, {}) else f"`{_json(default)}`"


def _limits(schema: dict[str, Any]) -> str:
    limits = [text.format(schema[key]) for key, text in _LIMITS if key in schema]
    if "pattern" in schema:
        limits.append(f"matches `{schema['pattern']}`")
    if schema.get("type") == "array" and (inner := _limits(schema["items"])):
        limits.append(f"each: {inner}")
    return "; ".join(limits)


def _rules(schema: dict[str, Any], path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"{f'`{path}`: ' if path else ''}{rule['message']}"
    for name, member in schema.get("properties", {}).items():
        yield from _rules(member, f"{path}.{name}".removeprefix("."))
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
