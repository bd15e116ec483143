"""Makes a CustomResourceDefinition from a kind's models.

Kubernetes takes a narrow form of JSON schema, called structural: no references, no alternatives, one
type for each value. pydantic writes a wide one. What pydantic writes and this module does not know
is an error, so that no limit is lost on the way.

Defaults are the API server's to fill in, but only those that say something: an empty text, list or
object and false mean the same when they are absent, and would only clutter users' objects. A status
has none, since the operator writes it whole.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from seedbed.crds.base import GROUP, VERSION
from seedbed.crds.kinds import COMMON_RULES, Column, Kind, Rule

CATEGORY = "seedbed"
Schema = dict[str, Any]

_KEPT = frozenset(
    {
        *("type", "description", "enum", "pattern", "format", "nullable", "minLength", "maxLength"),
        *("minimum", "maximum", "minItems", "maxItems", "minProperties", "maxProperties"),
    }
)
_DROPPED = frozenset({"title", "examples", "$defs", "additionalProperties", "default", "required"})
_FORMATS = {"integer": "int64", "number": "double"}


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind, ready to be applied."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **({"scale": kind.scale} if kind.scale else {})},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": _root(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "seedbed"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


def structural(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """A model as a structural schema."""
    wide = model.model_json_schema(by_alias=True, mode="validation")
    return _narrow(wide, wide.get("$defs", {}), defaults=defaults)


def _root(kind: Kind) -> Schema:
    spec = structural(kind.spec)
    root: Schema = {
        "type": "object",
        "description": (kind.resource.__doc__ or "").strip(),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": structural(kind.status, defaults=False),
        },
    }
    if "required" in spec or kind.needs_spec:
        spec.pop("default", None)
        root["required"] = ["spec"]
    for rule in (*COMMON_RULES, *kind.rules):
        _place(root, rule)
    return root


def _place(root: Schema, rule: Rule) -> None:
    schema = root
    for part in filter(None, rule.path.split(".")):
        schema = schema["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            schema = schema["items"]
    placed = {"rule": rule.rule, "message": rule.message}
    if rule.field:
        placed["fieldPath"] = f".{rule.field}"
    schema.setdefault("x-kubernetes-validations", []).append(placed)


def _column(column: Column) -> dict[str, Any]:
    named = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**named, "priority": column.priority} if column.priority else named


def _narrow(wide: Schema, named: dict[str, Schema], *, defaults: bool) -> Schema:
    wide = _resolved(wide, named)
    found: Schema = {}
    for key, value in wide.items():
        if key in _KEPT or key.startswith("x-kubernetes-"):
            found[key] = value
        elif key == "const":
            found["enum"] = [value]
        elif key == "items":
            found["items"] = _narrow(value, named, defaults=defaults)
        elif key == "properties":
            found["properties"] = {
                name: _narrow(member, named, defaults=defaults) for name, member in value.items()
            }
        elif key not in _DROPPED:
            raise TypeError(f"a structural schema has no {key!r}: {wide.get('title')}")
    if found.get("type") in _FORMATS:
        found.setdefault("format", _FORMATS[found["type"]])
    if wide.get("required"):
        found["required"] = wide["required"]
    _keep_keys(wide, found, named, defaults=defaults)
    if defaults:
        _keep_default(wide, found)
    return found


def _resolved(wide: Schema, named: dict[str, Schema]) -> Schema:
    """The schema with its reference and its "or null" replaced; what stands beside them wins."""
    if "anyOf" in wide:
        choices = [choice for choice in wide["anyOf"] if choice.get("type") != "null"]
        if len(choices) != 1:
            raise TypeError(f"a structural schema has no alternatives: {wide.get('title')}")
        beside = {key: value for key, value in wide.items() if key != "anyOf"}
        return {**_resolved(choices[0], named), "default": None, **beside}
    if "$ref" in wide:
        beside = {key: value for key, value in wide.items() if key != "$ref"}
        return {**named[wide["$ref"].rsplit("/", maxsplit=1)[-1]], **beside}
    return wide


def _keep_keys(wide: Schema, found: Schema, named: dict[str, Schema], *, defaults: bool) -> None:
    """Says what the keys of a free object may hold."""
    free = wide.get("additionalProperties", False)
    if isinstance(free, dict) and free:
        found["additionalProperties"] = _narrow(free, named, defaults=defaults)
    elif free is not False:
        found["x-kubernetes-preserve-unknown-fields"] = True


def _said(default: Any) -> Any:
    """A default without its fields of no value: an API server takes none for a value of the wrong type."""
    if isinstance(default, dict):
        return {name: _said(value) for name, value in default.items() if value is not None}
    return [_said(value) for value in default] if isinstance(default, list) else default


def _keep_default(wide: Schema, found: Schema) -> None:
    default = _said(wide.get("default"))
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    if default:
        found["default"] = default
    elif (
        "default" not in wide
        and "required" not in found
        and any("default" in member for member in found.get("properties", {}).values())
    ):
        # Without the object itself the API server would not fill in what stands in it.
        found["default"] = {}
