"""What the command prints: tables like kubectl's, results, one line for an error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from seedbed.controllers.plan import Raw
from seedbed.crds.kinds import BY_NAME, Kind

_STEP = re.compile(r"\.(\w+)(?:\[\?\(@\.(\w+)==\"(\w+)\"\)\])?")
_AGES = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_PLAIN_WIDTH = 240
_GOOD, _BAD = "green", "red"
_COLOURS = {
    **dict.fromkeys(("True", "Succeeded", "On", "yes", "Running"), _GOOD),
    **dict.fromkeys(("False", "Failed", "no", "malformed"), _BAD),
}


def console(*, stderr: bool = False) -> Console:
    """Where to print. What is no terminal gets wide lines, so that nothing is cut or wrapped."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH)


def at(obj: Any, path: str) -> Any:
    """The value at a printer column's path, such as `.status.phase`; None where there is none."""
    for name, field, wanted in _STEP.findall(path):
        obj = obj.get(name) if isinstance(obj, Mapping) else None
        if field:
            obj = next((one for one in obj or () if one.get(field) == wanted), None)
    return obj


def age(timestamp: str, now: datetime | None = None) -> str:
    """How long ago, in kubectl's form: `5s`, `3m`, `2d`."""
    passed = (now or datetime.now(UTC)) - datetime.fromisoformat(timestamp)
    whole = max(0, int(passed.total_seconds()))
    size, unit = next(((size, unit) for size, unit in _AGES if whole >= size), (1, "s"))
    return f"{whole // size}{unit}"


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table without lines; words that are good or bad news have their colour."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def objects(kind: Kind, found: Sequence[Raw], *, wide: bool = False, namespaces: bool) -> Table:
    """The objects of one kind with its printer columns."""
    columns = [one for one in kind.columns if wide or one.priority == 0]
    lead = ["NAMESPACE"] if namespaces else []
    rows = []
    for obj in found:
        metadata = obj["metadata"]
        cells = [metadata.get("namespace", "")] if namespaces else []
        values = [(at(obj, one.path), one.type) for one in columns]
        cells += [metadata["name"], *(_shown(value, form) for value, form in values)]
        rows.append(cells)
    return plain_table([*lead, "NAME", *(one.name.upper() for one in columns)], rows)


def conditions(found: Sequence[Raw]) -> Table:
    """One line for each object: whether it is ready, why, and every condition that holds."""
    rows = []
    for obj in found:
        by_type = {one["type"]: one for one in at(obj, ".status.conditions") or ()}
        ready = by_type.get("Ready", {})
        holds = [name for name, one in by_type.items() if one["status"] == "True"]
        rows.append(
            [
                f"{obj['kind'].lower()}/{obj['metadata']['name']}",
                ready.get("status", "Unknown"),
                ready.get("reason", ""),
                ", ".join(name for name in holds if name != "Ready"),
                ready.get("message", ""),
            ]
        )
    return plain_table(["OBJECT", "READY", "REASON", "ALSO", "MESSAGE"], rows)


def result(value: Any) -> list[RenderableType]:
    """A run's result: a table where it is one, else YAML; what stands beside the table follows it."""
    if isinstance(value, Mapping) and {"columns", "rows"} <= value.keys():
        parts: list[RenderableType] = [plain_table(value["columns"], value["rows"])]
        beside = {k: v for k, v in value.items() if k not in ("columns", "rows")}
        return parts + ([Text(""), Text(_yaml(beside, sort=True))] if beside else [])
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        columns = list(dict.fromkeys(name for one in value for name in one))
        return [plain_table(columns, ([one.get(name) for name in columns] for one in value))]
    return [Text(_yaml(value, sort=True))]


def described(obj: Raw, events: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Everything about one object, in sections.

    Args:
        obj: the object.
        events: its Events as rows with `type`, `reason`, `age`, `count` and `message`.
    """
    metadata, status = obj["metadata"], obj.get("status", {})
    head = [("Name", metadata["name"]), ("Namespace", metadata.get("namespace", ""))]
    head += [("Kind", obj["kind"]), ("Age", _shown(metadata.get("creationTimestamp"), "date"))]
    head += [
        (column.name, _shown(at(obj, column.path), column.type))
        for column in BY_NAME[obj["kind"]].columns
        if column.name not in ("Ready", "Reason", "Age")
    ]
    parts: list[RenderableType] = [plain_table(["", ""], head), Text("\nSpec", style="bold")]
    parts.append(Text(_indented(_yaml(obj.get("spec", {})))))
    listed = [
        [one["type"], one["status"], one["reason"], age(one["lastTransitionTime"]), one["message"]]
        for one in status.get("conditions", ())
    ]
    parts += _section("Conditions", ["TYPE", "STATUS", "REASON", "AGE", "MESSAGE"], listed)
    waiting = [
        [w["name"], w["kind"], w.get("message", ""), w.get("until", "")]
        for w in status.get("waiting", ())
    ]
    if waiting:
        parts += _section("Waiting", ["STEP", "FOR", "MESSAGE", "UNTIL"], waiting)
    recent = [[r["name"], r["state"], r.get("message", "")] for r in status.get("recent", ())]
    if recent:
        parts += _section("Recent steps", ["STEP", "STATE", "MESSAGE"], recent)
    told = [[e["type"], e["reason"], e["age"], e["count"], e["message"]] for e in events]
    return parts + _section("Events", ["TYPE", "REASON", "AGE", "COUNT", "MESSAGE"], told)


def serialised(value: Any, form: str) -> str:
    """A value as `json` or `yaml`."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    return _yaml(value)


def print_as(form: str, value: Any, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a value as `json` or `yaml`, or in any other form as a table of these columns and rows."""
    if form in ("json", "yaml"):
        print(serialised(value, form))
    else:
        console().print(plain_table(columns, rows))


def _section(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[RenderableType]:
    body: RenderableType = plain_table(columns, rows) if rows else Text("  none")
    return [Text(f"\n{title}", style="bold"), body]


def _shown(value: Any, form: str) -> str:
    if value is None:
        return ""
    if form == "date":
        return age(str(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(value: Any) -> Text:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return Text(text, style=_COLOURS.get(text, ""))


def _yaml(value: Any, *, sort: bool = False) -> str:
    """YAML; sorted where the order of the keys says nothing, as in what an expression made."""
    text: str = yaml.safe_dump(value, sort_keys=sort, allow_unicode=True, width=100)
    return text.removesuffix("...\n").rstrip()


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
