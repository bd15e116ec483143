"""A pod of a SeedLayer whose data, callers or disk are not as they should be: it says so, and lives on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.crds.seed_layer import DataSource
from seedbed.crds.seed_policy import Training
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.seeds import places
from seedbed.runtime.seeds.data import check_fit, load_data
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.places import CheckpointPlace
from tests.conftest import run_async
from tests.seed_pods import data, model, pod, settings, spec_of, until
from tests.unit.test_seed_pod import page

HERE = "tests.unit.test_seed_faults"
ROWS = [[0.1 * each for each in range(8)]] * 2
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def other_classes() -> Four:
    """Entry point: targets of more classes than the model knows."""
    inputs, targets, *held_out = data()
    return (inputs, targets + 90, *held_out)


def wide() -> Four:
    """Entry point: rows of another width than the model's."""
    inputs, targets, held_out, theirs = data()
    return torch.cat([inputs, inputs], 1), targets, torch.cat([held_out, held_out], 1), theirs


def late() -> Four:
    """Entry point: one row, which does not come first, is of a class that does not exist."""
    inputs, targets, *held_out = data()
    generator = torch.Generator().manual_seed(0)
    last = int(torch.randperm(len(targets), generator=generator)[-1])
    targets = targets.clone()
    targets[last] = 99
    return (inputs, targets, *held_out)


@pytest.mark.parametrize(
    ("entry", "words"), [("other_classes", "out of bounds"), ("wide", "refuses the inputs")]
)
def test_data_that_do_not_fit_the_model_are_one_error(entry: str, words: str) -> None:
    found = load_data(DataSource(entry=f"{HERE}:{entry}"), Training(), torch.device("cpu"))
    with pytest.raises(InvalidError, match=words) as caught:
        check_fit(model(), found)
    assert caught.value.field == "spec.data"


def test_a_batch_that_cannot_be_learnt_from_ends_training_and_not_the_pod(tmp_path: Path) -> None:
    spec = spec_of(data={"entry": f"{HERE}:late"})

    async def body() -> None:
        bus = MemoryBus()
        async with (
            settings(spec) as coordinator,
            pod(tmp_path, coordinator, bus) as (server, url),
            aiohttp.ClientSession() as session,
        ):
            await until(lambda: server.progress.reason)
            assert (server.progress.phase, server.progress.reason) == ("Serving", "Invalid")
            assert "spec.data" in server.progress.message
            assert server.progress.activity == "Waiting"
            assert (await page(session, f"{url}/v1/infer", {"inputs": ROWS}))[0] == 200
        await bus.close()

    run_async(body())


def test_rows_that_cannot_be_learnt_from_are_refused_when_they_come(tmp_path: Path) -> None:
    async def body() -> None:
        bus = MemoryBus()
        async with (
            settings(spec_of(data=None)) as coordinator,
            pod(tmp_path, coordinator, bus) as (server, url),
            aiohttp.ClientSession() as session,
        ):
            await until(lambda: not server.waiting)
            wrong: list[tuple[Any, Any, str]] = [
                (ROWS, [0, 99], "targets"),
                (ROWS, [0.5, 0.5], "targets"),
                (ROWS, [[0.1] * 4] * 2, "targets"),
                (ROWS, [-100, -100], "finite loss"),
                ([[1e39] * 8] * 2, [0, 1], "finite numbers"),
            ]
            for inputs, targets, words in wrong:
                sent = {"inputs": inputs, "targets": targets}
                status, told = await page(session, f"{url}/v1/train", sent)
                assert (status, words in told["error"]["message"]) == (400, True), told
            whole = {"inputs": [[1, 0, 2, 0, 0, 0, 0, 3]] * 2, "targets": [0, 1]}
            for kept in (1, 2):
                assert await page(session, f"{url}/v1/train", whole) == (202, {"kept": kept})
            host = server.pages.host
            assert host is not None
            await until(lambda: host.model.epoch >= 1)
            assert (await page(session, f"{url}/v1/infer", {"inputs": whole["inputs"]}))[0] == 200
        await bus.close()

    run_async(body())


def test_a_request_to_a_model_that_is_being_closed_may_come_again(tmp_path: Path) -> None:
    async def body() -> None:
        place = CheckpointPlace(str(tmp_path), "team.small")
        host = await Host.load(spec_of(), Features.all_on(), place)
        await host.close()
        with pytest.raises(UnavailableError, match="loaded anew"):
            await host.answer([torch.zeros(1, 8)], None)

    run_async(body())


def test_the_last_checkpoint_is_tried_until_its_place_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = CheckpointPlace.store, 0

    def refusing(*arguments: Any) -> int:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise UnavailableError("the place is away")
        return store(*arguments)

    async def body() -> None:
        bus = MemoryBus()
        rare = spec_of(checkpoint={"interval": "1h"}, lifecycle={"patience": 1000})
        async with (
            settings(rare) as coordinator,
            pod(tmp_path, coordinator, bus) as (server, _),
        ):
            await until(lambda: server.progress.step or server.pages.host)
            monkeypatch.setattr(places.CheckpointPlace, "store", refusing)
        await bus.close()

    run_async(body())
    assert asked == 3
    assert len(CheckpointPlace(str(tmp_path), "team.small").kept()) == 1
