"""A pod of a SeedLayer that is killed goes on from its newest checkpoint, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seedbed.runtime.seeds.attach import attach
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.wishes import attach_spec
from tests.seed_pods import PodProcess, model, spec_of

# Long enough in each stage to be seen there, and a checkpoint after each epoch.
SLOW: dict[str, Any] = {
    "training": {"interval": "20ms", "learningRate": 0.03},
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
DRIFTING = {**USEFUL, "driftLimit": 0.0001}


def host() -> Host:
    spec = spec_of()
    return Host(attach(model(), attach_spec(spec), Features.all_on()), Features.all_on(), None)


def newest(folder: Path) -> tuple[int, str]:
    """Number of the newest checkpoint, and a hash of its tensors."""
    read = host()
    assert read.resume(CheckpointPlace(str(folder), "team.small"))
    assert read.resumed is not None
    return read.resumed.number, read.digest()


@pytest.mark.req("ESP-18")
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
        ("rolledBack", DRIFTING),
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


def test_a_cancelled_seed_is_resumed_as_one(tmp_path: Path) -> None:
    made = host()
    asleep = Decision(
        0, 2, "body.0", 2, Stage.DORMANT, Stage.GERMINATED, "t", "t", {}, "low-rank-2"
    )
    begun = replace(asleep, strategy="linear")
    ended = replace(begun, source=Stage.GERMINATED, target=Stage.CANCELLED)
    assert made.model.apply([begun])
    assert made.model.apply([ended])
    CheckpointPlace(str(tmp_path), "team.small").store(1, made.model.save, 3)
    running = PodProcess(tmp_path, spec_of(lifecycle={"patience": 1000}, data=None))
    resumed = running.until("/v1/model", lambda page: page)["resumed"]
    seeds = running.get("/v1/seeds")
    running.kill()
    assert resumed["digest"] == made.digest()
    assert seeds["stages"] == {"dormant": 7, "cancelled": 1}


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
