"""Tables, results and progress in words."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from seedbed.cli import output, progress
from seedbed.cli.reading import Selection
from seedbed.cli.source import kind_named
from seedbed.crds.errors import InvalidError
from seedbed.crds.kinds import BY_NAME, KINDS

WORKFLOW: dict[str, Any] = {
    "kind": "Workflow",
    "metadata": {
        "name": "audit",
        "namespace": "legal",
        "generation": 2,
        "creationTimestamp": "2026-11-21T10:00:00Z",
    },
    "spec": {"steps": [{"name": "collect"}]},
    "status": {
        "observedGeneration": 2,
        "phase": "Running",
        "progress": "3/8",
        "steps": {"total": 8, "succeeded": 3, "running": 2, "failed": 0},
        "recent": [{"name": "read[2]", "state": "Succeeded"}],
        "waiting": [{"name": "send-letters", "kind": "approval", "message": "Send 3 letters?"}],
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Running",
                "message": "3 of 8",
                "lastTransitionTime": "2026-11-21T10:00:00Z",
            },
            {
                "type": "Reconciling",
                "status": "True",
                "reason": "Running",
                "message": "",
                "lastTransitionTime": "2026-11-21T10:00:00Z",
            },
        ],
    },
}


def lines(*parts: RenderableType) -> list[str]:
    console = Console(width=160, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_columns_come_from_the_kind() -> None:
    head, row = lines(output.objects(BY_NAME["Workflow"], [WORKFLOW], namespaces=True))
    columns = ["PHASE", "PROGRESS", "SPENT", "BUDGET", "ETA", "READY", "AGE"]
    assert head.split() == ["NAMESPACE", "NAME", *columns]
    assert row.split()[:5] == ["legal", "audit", "Running", "3/8", "False"]
    wide, _ = lines(output.objects(BY_NAME["Workflow"], [WORKFLOW], wide=True, namespaces=False))
    assert "REASON" in wide


def test_an_object_without_status_has_empty_cells() -> None:
    bare = {"kind": "Workflow", "metadata": {"name": "new"}, "spec": {}}
    _, row = lines(output.objects(BY_NAME["Workflow"], [bare], namespaces=False))
    assert row == "new"


def test_conditions_tell_why() -> None:
    _, row = lines(output.conditions([WORKFLOW]))
    assert row.split() == ["workflow/audit", "False", "Running", "Reconciling", "3", "of", "8"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (".status.phase", "Running"),
        ('.status.conditions[?(@.type=="Ready")].reason', "Running"),
        ('.status.conditions[?(@.type=="Stalled")].reason', None),
        (".status.none.deeper", None),
    ],
)
def test_paths(path: str, value: Any) -> None:
    assert output.at(WORKFLOW, path) == value


def test_every_column_of_every_kind_can_be_read() -> None:
    for kind in KINDS:
        for column in kind.columns:
            rebuilt = "".join(part.group() for part in output._STEP.finditer(column.path))
            assert rebuilt == column.path


@pytest.mark.parametrize(
    ("passed", "shown"),
    [("10:00:07", "7s"), ("10:05:00", "5m"), ("13:59:59", "3h"), ("09:00:00", "0s")],
)
def test_ages(passed: str, shown: str) -> None:
    now = datetime.fromisoformat(f"2026-11-21T{passed}").replace(tzinfo=UTC)
    assert output.age("2026-11-21T10:00:00Z", now) == shown


def test_results_are_tables_where_they_can_be() -> None:
    table = {"columns": ["a", "b"], "rows": [[1, "x"], [None, [2]]], "summary": {"rate": 0.5}}
    shown = lines(*output.result(table))
    assert shown[0].split() == ["a", "b"]
    assert shown[1].split() == ["1", "x"]
    assert shown[2].split() == ["[2]"]
    assert "rate: 0.5" in shown[-1]
    assert lines(*output.result([{"a": 1}, {"b": 2}]))[0].split() == ["a", "b"]
    assert lines(*output.result("done")) == ["done"]
    assert lines(*output.result({"a": {"b": [1]}})) == ["a:", "  b:", "  - 1"]


def test_markup_in_data_is_text() -> None:
    assert lines(output.plain_table(["x"], [["[bold]no[/bold]"]]))[1] == "[bold]no[/bold]"
    assert lines(*output.result("[/x]")) == ["'[/x]'"]


def test_describe_has_every_section() -> None:
    event = {"type": "Normal", "reason": "Submitted", "age": "5s", "count": 1, "message": "run r"}
    text = "\n".join(lines(*output.described(WORKFLOW, [event])))
    for part in (
        "audit",
        "3/8",
        "Conditions",
        "Reconciling",
        "Recent steps",
        "read[2]",
        "Waiting",
        "Send 3 letters?",
        "Submitted",
    ):
        assert part in text


def test_progress_in_words() -> None:
    assert progress.told(WORKFLOW) == "Running · 3/8 · 2 running · read[2] succeeded"
    assert progress.told({"metadata": {}}) == "Pending"
    why = [{"type": "Ready", "reason": "PlanUnavailable", "message": "it answers 403"}]
    assert progress.told({"status": {"conditions": why}}) == "Pending · it answers 403"


def test_only_the_present_spec_can_end() -> None:
    done = {**WORKFLOW, "status": {**WORKFLOW["status"], "phase": "Succeeded"}}
    assert progress.ended(done)
    assert not progress.ended(WORKFLOW)
    edited = {**done, "metadata": {**WORKFLOW["metadata"], "generation": 3}}
    assert not progress.ended(edited)


@pytest.mark.parametrize("text", ["Pool", "pools", "POOL", "sbpool"])
def test_kinds_have_several_names(text: str) -> None:
    assert kind_named(text).name == "Pool"


def test_what_the_user_selects() -> None:
    assert Selection(None, None, None, everywhere=False).parsed() == (KINDS, None)
    kinds, name = Selection("pool/general", None, None, everywhere=False).parsed()
    assert (kinds[0].name, name) == ("Pool", "general")
    for wrong in (
        Selection("pod", None, None, everywhere=False),
        Selection("pool/a", "b", None, everywhere=False),
        Selection("pool", "b", None, everywhere=True),
    ):
        with pytest.raises(InvalidError):
            wrong.parsed()
