"""A pod of a SeedLayer that is killed goes on from its newest checkpoint, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from seedbed.cli.main import app
from seedbed.runtime.seeds.attach import attach
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.wishes import attach_spec, growth
from tests.seed_pods import PodProcess, model, spec_of

# Long enough in each stage to be seen there, and a checkpoint after each epoch.
SLOW: dict[str, Any] = {
    "training": {"interval": "50ms", "learningRate": 0.03},
    "checkpoint": {"interval": "1ms", "keep": 3},
}
LIFE = {"patience": 1, "minImprovement": 0.001, "accuracyTarget": 1.0, "maxActiveSeeds": 1}
STAGES = dict.fromkeys(("germination", "training", "stabilisation", "evaluation", "fineTuning"), 3)
USEFUL = {
    **LIFE,
    "maxDrop": 1.0,
    "driftLimit": 1.0,
    "stages": {**STAGES, "longestTraining": 1000},
}
BARREN = {**LIFE, "minImprovement": 1.0, "stages": {"longestTraining": 3}}
GROWN = growth(spec_of().blueprints[0]).name


def host() -> Host:
    spec = spec_of()
    return Host(attach(model(), attach_spec(spec), Features.all_on()), Features.all_on(), None)


def newest(folder: Path) -> tuple[int, str]:
    """Number of the newest checkpoint, and a hash of its tensors."""
    read = host()
    assert read.resume(CheckpointPlace(str(folder), "team.small"))
    assert read.resumed is not None
    return read.resumed.number, read.digest()


@pytest.mark.parametrize(
    ("stage", "lifecycle"),
    [
        ("dormant", {**LIFE, "patience": 1000}),
        ("germinated", USEFUL),
        ("training", USEFUL),
        ("grafting", USEFUL),
        ("stabilisation", USEFUL),
        ("evaluating", USEFUL),
        ("fineTuning", USEFUL),
        ("fossilised", USEFUL),
        ("culled", BARREN),
    ],
)
def test_a_pod_killed_in_any_stage_goes_on_with_the_same_tensors(
    tmp_path: Path, stage: str, lifecycle: dict[str, Any]
) -> None:
    running = PodProcess(tmp_path, spec_of(**SLOW, lifecycle=lifecycle))
    seen = running.until("/v1/seeds", lambda page: page["epoch"] > 1 and page["stages"].get(stage))
    running.kill()
    number, digest = newest(tmp_path)
    # Training is over for this one, so that nothing but what was resumed can be seen.
    again = PodProcess(tmp_path, spec_of(lifecycle=lifecycle, training={"epochs": 1}))
    resumed = again.until("/v1/model", lambda page: page)["resumed"]
    state, seeds = again.get("/v1/state"), again.get("/v1/seeds")
    assert again.terminate() == 0
    assert resumed == {"checkpoint": number, "digest": digest}
    assert state["digest"] == digest
    assert state["epoch"] >= seen["epoch"] - 1, "no more than the epoch under way is lost"
    assert sum(seeds["stages"].values()) == 8


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ((Stage.GERMINATED, Stage.CANCELLED), "cancelled"),
        ((Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING, Stage.ROLLED_BACK), "rolledBack"),
    ],
)
def test_a_seed_that_was_given_up_is_resumed_as_one(
    tmp_path: Path, path: tuple[Stage, ...], stage: str
) -> None:
    made, before = host(), Stage.DORMANT
    for after in path:
        move = Decision(0, 2, "body.0", 2, before, after, "test", "test", {}, GROWN, "linear")
        assert made.model.apply([move])
        before = after
    CheckpointPlace(str(tmp_path), "team.small").store(1, made.model.save, 3)
    running = PodProcess(tmp_path, spec_of(lifecycle={"patience": 1000}, data=None))
    resumed = running.until("/v1/model", lambda page: page)["resumed"]
    seeds = running.get("/v1/seeds")
    running.kill()
    assert resumed["digest"] == made.digest()
    assert seeds["stages"] == {"dormant": 7, stage: 1}


def test_a_pod_that_is_told_to_end_saves_what_it_has(tmp_path: Path) -> None:
    """What a spot node's notice comes to: SIGTERM, and a checkpoint within the drain."""
    rare = {"checkpoint": {"interval": "1h"}, "lifecycle": {**LIFE, "patience": 1000}}
    running = PodProcess(tmp_path, spec_of(**rare))
    seen = running.until("/v1/seeds", lambda page: page["epoch"] > 3)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert running.terminate() == 0
    _, digest = newest(tmp_path)
    again = PodProcess(tmp_path, spec_of(**rare, training={"epochs": 1}))
    page = again.until("/v1/model", lambda page: page)
    again.kill()
    assert page["resumed"]["digest"] == digest
    assert page["epoch"] >= seen["epoch"]


def test_a_broken_checkpoint_costs_one_and_no_more(tmp_path: Path) -> None:
    running = PodProcess(tmp_path, spec_of(**SLOW))
    running.until("/v1/seeds", lambda page: page["epoch"] > 4)
    running.kill()
    number, _ = newest(tmp_path)
    file = tmp_path / "team.small" / f"seeds-{number:010d}.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = PodProcess(tmp_path, spec_of(training={"epochs": 1}))
    page = again.until("/v1/model", lambda page: page)
    again.kill()
    assert page["resumed"]["checkpoint"] == number - 1


ROOT = Path(__file__).parents[2]
SEEDBED = str(Path(sys.executable).parent / "seedbed")


def seedbed(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "XDG_STATE_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [SEEDBED, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=160,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(folder: Path, *arguments: str) -> str:
    """What a command that reads says; in this process, which has everything loaded."""
    local = ("--local", str(folder / "state"))
    done = CliRunner().invoke(app, ["seeds", *arguments, *local], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.timeout(180)
def test_the_example_runs_in_one_process_and_repairs_the_reader(tmp_path: Path) -> None:
    manifests = list(yaml.safe_load_all((ROOT / "examples/seeds/digits.yaml").read_text()))
    manifests[0]["spec"]["training"]["epochs"] = 24
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump_all(manifests))
    said = seedbed(tmp_path, "run", "digits.yaml", "--keep", "state", "--timeout", "150")
    assert "digits answers at http://127.0.0.1:" in said
    status = yaml.safe_load(told(tmp_path, "status", "digits", "-o", "yaml"))
    assert status["epoch"] == 24
    assert float(status["accuracy"]) > float(status["baseAccuracy"])
    assert sum(status["seeds"].values()) == 24
    assert f"seed {status['lastDecision']['seed']} of" in told(tmp_path, "status", "digits")
    log = yaml.safe_load(told(tmp_path, "decisions", "digits", "-o", "yaml"))
    assert len(log) == status["decisions"] > 0
    assert {one["to"] for one in log} >= {"Germinated", "Training"}
    assert log[-1]["rule"] in told(tmp_path, "decisions", "digits")
