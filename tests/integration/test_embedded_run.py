"""`seedbed run`: a whole process on the embedded adapters, from manifests to exit code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

SEEDBED = str(Path(sys.executable).parent / "seedbed")
EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = {"apiVersion": "seedbed.dev/v1alpha1"}
POOL = {**HEAD, "kind": "Pool", "metadata": {"name": "general"}, "spec": {"workersPerReplica": 2}}

# Runs one step for each name in a list; `slow` writes a line to a file each time it is executed.
STEPS = """
import pathlib, time

def slow(folder, name, wait):
    with (pathlib.Path(folder) / "executed").open("a") as stream:
        stream.write(f"{name}\\n")
    time.sleep(wait)
    return name.upper()

def broken():
    raise ValueError("nothing works")
"""


def workflow(steps: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    return {
        **HEAD,
        "kind": "Workflow",
        "metadata": {"name": "work"},
        "spec": {"steps": steps, **spec},
    }


def write(folder: Path, *objects: dict[str, Any]) -> Path:
    manifests = folder / "manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "all.yaml").write_text(yaml.safe_dump_all(objects))
    (folder / "own_steps.py").write_text(STEPS)
    return manifests


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "XDG_STATE_HOME": str(folder / "state")}


def seedbed(folder: Path, *arguments: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SEEDBED, *arguments],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def until(holds: Any, limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def greeting() -> dict[str, Any]:
    greet = {
        "name": "greet",
        "forEach": "params.names",
        "call": {"entry": "builtins:dict", "args": {"greeting": "Hello, ${item}!"}},
    }
    return workflow([greet], params={"names": ["Ada", "Grace"]}, result="steps.greet.output")


def test_call_steps_run_to_their_result(tmp_path: Path) -> None:
    manifests = write(tmp_path, POOL, greeting())
    done = seedbed(tmp_path, "run", str(manifests), "--keep", "kept")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hello, Ada!" in done.stdout
    assert "Hello, Grace!" in done.stdout
    ready = {
        line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if "/" in line[:12]
    }
    assert ready["pool/general"] == "True"
    assert ready["workflow/work"] == "True"
    assert "seedbed logs work --local kept" in done.stdout


def test_the_state_folder_can_be_read_afterwards(tmp_path: Path) -> None:
    manifests = write(tmp_path, POOL, greeting())
    assert seedbed(tmp_path, "run", str(manifests), "--keep", "kept").returncode == 0
    listed = seedbed(tmp_path, "get", "--local", "kept")
    assert "Succeeded" in listed.stdout, listed.stderr
    result = seedbed(tmp_path, "result", "work", "--local", "kept", "-o", "json")
    assert json.loads(result.stdout) == [{"greeting": "Hello, Ada!"}, {"greeting": "Hello, Grace!"}]
    described = seedbed(tmp_path, "describe", "workflow", "work", "--local", "kept")
    assert "builtins:dict" in described.stdout
    logs = seedbed(tmp_path, "logs", "work", "--local", "kept")
    assert [line.split()[1:3] for line in logs.stdout.splitlines()] == [
        ["Succeeded", "greet[0]"],
        ["Succeeded", "greet[1]"],
    ]
    missing = seedbed(tmp_path, "get", "--local", "nowhere")
    assert missing.returncode == 1
    assert "no state folder" in missing.stderr


def test_without_a_folder_the_state_goes_to_the_users_own(tmp_path: Path) -> None:
    manifests = write(tmp_path, POOL, greeting())
    assert seedbed(tmp_path, "run", str(manifests)).returncode == 0
    (state,) = (tmp_path / "state" / "seedbed").iterdir()
    assert (state / "runs.db").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": [{"name": "a"}], "result": "1"}, "spec.steps[0]"),
        ({"stepz": []}, "spec.stepz"),
        ({"deadline": "soon"}, "spec.deadline"),
    ],
)
def test_an_invalid_manifest_is_one_line_with_file_object_and_field(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    obj = greeting()
    manifests = write(tmp_path, POOL, {**obj, "spec": {**obj["spec"], **change}})
    done = seedbed(tmp_path, "run", str(manifests))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in ("all.yaml", "Workflow work", told):
        assert part in line
    assert not (tmp_path / "state").exists()


def test_steps_come_from_a_config_map_and_from_a_file_beside_the_manifest(tmp_path: Path) -> None:
    steps = [{"name": "a", "call": {"entry": "builtins:dict", "args": {"x": "${params.x}"}}}]
    circle = [{**steps[0], "name": name, "needs": [need]} for name, need in ("ab", "ba")]
    data = json.dumps(steps).encode()
    label = {"labels": {"seedbed.dev/plan": "true"}}
    texts = {"steps.yaml": yaml.safe_dump(steps), "circle": yaml.safe_dump(circle)}
    held = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plans", **label}}
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}, "data": {}}
    file = {"url": "file:plan.json", "sha256": hashlib.sha256(data).hexdigest()}
    sources = {
        "held": {"configMap": {"name": "plans"}},
        "filed": {"artifact": file},
        "circle": {"configMap": {"name": "plans", "key": "circle"}},
    }
    flows = [
        {
            **HEAD,
            "kind": "Workflow",
            "metadata": {"name": name},
            "spec": {"stepsFrom": source, "params": {"x": name}, "result": "steps.a.output.x"},
        }
        for name, source in sources.items()
    ]
    manifests = write(tmp_path, POOL, {**held, "data": texts}, other, *flows)
    (manifests / "plan.json").write_bytes(data)
    done = seedbed(tmp_path, "run", str(manifests / "all.yaml"), "--keep", "kept")
    assert done.returncode == 1, done.stdout + done.stderr
    told = {line.split()[0]: line for line in done.stdout.splitlines() if "/" in line[:20]}
    for name in ("held", "filed"):
        assert told[f"workflow/{name}"].split()[1] == "True"
        result = seedbed(tmp_path, "result", name, "--local", "kept", "-o", "json")
        assert json.loads(result.stdout) == name
    assert "PlanRefused" in told["workflow/circle"]
    assert "the steps wait for each other: a → b → a" in told["workflow/circle"]
    (manifests / "plan.json").write_bytes(b"[]")
    changed = seedbed(tmp_path, "run", str(manifests / "all.yaml"))
    assert changed.returncode == 1
    assert "spec.stepsFrom.artifact.sha256" in changed.stderr
    assert hashlib.sha256(b"[]").hexdigest() in changed.stderr


def test_a_failed_step_fails_the_command(tmp_path: Path) -> None:
    broken = workflow([{"name": "bad", "call": {"entry": "own_steps:broken"}}])
    done = seedbed(tmp_path, "run", str(write(tmp_path, POOL, broken)))
    assert done.returncode == 1
    assert "nothing works" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_missing_pool_is_told_and_not_waited_for(tmp_path: Path) -> None:
    elsewhere = greeting()
    elsewhere["spec"]["pool"] = {"name": "elsewhere"}
    done = seedbed(tmp_path, "run", str(write(tmp_path, elsewhere)))
    assert done.returncode == 1
    assert "PoolNotFound" in done.stdout


def test_a_container_step_says_that_it_needs_a_cluster(tmp_path: Path) -> None:
    steps = [{"name": "pod", "container": {"image": "busybox:1.37"}}]
    done = seedbed(tmp_path, "run", str(write(tmp_path, POOL, workflow(steps))))
    assert done.returncode == 1
    assert "container steps need a cluster" in done.stdout


def test_a_run_over_its_time_is_ended(tmp_path: Path) -> None:
    args = {"folder": str(tmp_path), "name": "a", "wait": 30}
    slow = {"name": "slow", "call": {"entry": "own_steps:slow", "args": args}}
    asks = workflow([{"name": "sure", "approve": {"message": "Go on?"}}])
    asks["metadata"] = {"name": "asks"}
    manifests = write(tmp_path, POOL, workflow([slow]), asks)
    done = seedbed(tmp_path, "run", str(manifests), "--timeout", "3", "--keep", "kept")
    assert done.returncode == 1
    assert "not over within 3 s" in done.stderr
    assert "error: Workflow work: Running: 0 of 1 steps ended" in done.stderr
    assert "error: Workflow asks: WaitingForApproval: sure: Go on?" in done.stderr
    logged = seedbed(tmp_path, "logs", "work", "--local", "kept")
    assert "No step has ended yet." in logged.stderr
    assert "Traceback" not in done.stderr


def slow_workflow(folder: Path, count: int = 12) -> dict[str, Any]:
    args = {"folder": str(folder), "name": "${item}", "wait": 0.4}
    step = {
        "name": "slow",
        "forEach": "params.names",
        "call": {"entry": "own_steps:slow", "args": args},
    }
    names = [f"n{i}" for i in range(count)]
    return workflow([step], params={"names": names}, result="steps.slow.output", parallelism=2)


def executed(folder: Path) -> list[str]:
    file = folder / "executed"
    return file.read_text().split() if file.exists() else []


# A shell that starts the tests in the background lets them ignore SIGINT, and their children too.
LISTEN = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def start(folder: Path, manifests: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LISTEN, SEEDBED, "run", str(manifests), "--keep", "kept"],
        env=environment(folder),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    manifests = write(tmp_path, POOL, slow_workflow(tmp_path))
    with start(tmp_path, manifests) as first:
        until(lambda: len(executed(tmp_path)) >= 6)
        first.send_signal(signal.SIGKILL)
    before = executed(tmp_path)
    done = seedbed(tmp_path, "run", str(manifests), "--keep", "kept")
    assert done.returncode == 0, done.stdout + done.stderr
    again = executed(tmp_path)[len(before) :]
    # Only what was in the workers' hands, two steps, may run twice.
    assert len(set(before) & set(again)) <= 2
    assert set(before) | set(again) == {f"n{i}" for i in range(12)}
    result = seedbed(tmp_path, "result", "work", "--local", "kept", "-o", "json")
    assert json.loads(result.stdout) == [f"N{i}" for i in range(12)]


def test_interrupting_ends_cleanly_and_can_go_on(tmp_path: Path) -> None:
    manifests = write(tmp_path, POOL, slow_workflow(tmp_path, 100))
    with start(tmp_path, manifests) as first:
        until(lambda: len(executed(tmp_path)) >= 2)
        second = seedbed(tmp_path, "run", str(manifests), "--keep", "kept")
        assert second.returncode == 1
        assert "another `seedbed run` uses it" in second.stderr
        first.send_signal(signal.SIGINT)
        _, told = first.communicate(timeout=30)
        assert first.returncode == 130
    assert "Traceback" not in told
    done = seedbed(tmp_path, "run", str(manifests), "--keep", "kept")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_the_quickstart_with_the_real_model(tmp_path: Path) -> None:
    manifests = tmp_path / "quickstart"
    manifests.mkdir()
    for file in (EXAMPLES / "quickstart").glob("*.*"):
        text = file.read_text()
        (manifests / file.name).write_text(text.replace("limit: 12", "limit: 3"))
    done = seedbed(tmp_path, "run", str(manifests), "--keep", "kept", limit=170)
    assert done.returncode == 0, done.stdout + done.stderr
    found = seedbed(tmp_path, "result", "licence-audit", "--local", "kept", "-o", "json")
    result = json.loads(found.stdout)
    assert len(result["rows"]) == 3
    summary = result["summary"]
    assert summary["documents"] == 3
    assert summary["compared"] == summary["agreements"] + summary["disagreements"]
    assert summary["compared"] + summary["malformed"] == 3
    assert "Model and metadata agree on the kind of" in done.stdout


@pytest.mark.req("DSX-02", "FND-01")
def test_a_ping_goes_through_the_general_pool_that_nobody_configured(tmp_path: Path) -> None:
    done = seedbed(tmp_path, "run", str(EXAMPLES / "ping"), "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout + done.stderr
    said = seedbed(tmp_path, "result", "ping", "-o", "json", "--local", str(tmp_path / "kept"))
    pong = json.loads(said.stdout)
    assert pong["status"] == "ok"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", pong["dspy"])
