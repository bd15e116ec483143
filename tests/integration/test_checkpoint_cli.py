"""The guide's examples in one process, and the commands on a state folder and on a cluster's API."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.runtime.workflow.checkpoint.keys import KeyRing

SEEDBED = str(Path(sys.executable).parent / "seedbed")
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "checkpoints.md"


def seedbed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [SEEDBED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def told(*arguments: str | Path) -> Any:
    done = seedbed(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.req("COG-3.1.4")
def test_the_guides_workflows_fork_as_it_says(tmp_path: Path) -> None:
    shown = re.findall(r"```yaml\n(apiVersion.*?)```", GUIDE.read_text(), re.DOTALL)
    first, second, state = tmp_path / "first.yaml", tmp_path / "second.yaml", tmp_path / "state"
    first.write_text(shown[0])
    told("run", "--keep", state, first)
    # As the guide's last lines say: the command prints what `seedbed run` takes.
    printed = told(
        "fork", "nightly", "--name", "nightly-wide", "--set", "limit=9", "--local", state
    )
    made, by_hand = yaml.safe_load(printed), yaml.safe_load(shown[1])
    assert made["metadata"]["name"] == by_hand["metadata"]["name"]
    assert made["spec"]["params"] == by_hand["spec"]["params"]
    second.write_text(printed)
    told("run", "--keep", state, first, second)
    forked = json.loads(told("get", "workflow", "nightly-wide", "-o", "json", "--local", state))
    assert forked["status"]["phase"] == "Succeeded"
    assert forked["status"]["forkedFrom"]["taken"] == 1
    assert forked["status"]["forkedFrom"]["again"] == 1
    assert forked["status"]["result"] == {"rows": {"from": "s3"}, "limit": 9}
    # There are no checkpoints of a run that took a second; the command says so.
    assert "has no checkpoints" in told("checkpoints", "nightly", "--local", state)
    refused = seedbed("fork", "nightly", "--name", "x", "--checkpoint", "4", "--local", state)
    assert refused.returncode == 1
    assert "has no checkpoint 4" in refused.stderr
    # The key ring beside the store is rotated by the command.
    keys = state / "checkpoint.keys"
    before = KeyRing(keys).newest
    assert "encrypts from now on; 1 older still decrypt" in told("rotate-keys", "--file", keys)
    assert KeyRing(keys).newest != before
    assert keys.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("fork", "a", "--name", "b", "--set", "limit", "--local", "."), "--set"),
        (("rotate-keys", "--file", "nowhere"), "--file"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], named: str) -> None:
    done = seedbed(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error:")
    assert "Traceback" not in done.stderr
    assert named in done.stderr or "state folder" in done.stderr
