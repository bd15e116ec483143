"""A pod of a SeedLayer whose data, callers or disk are not as they should be: it says so, and lives on."""

from __future__ import annotations

import asyncio
import json
import math
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seedbed.crds.errors import FencedError, InvalidError, UnavailableError
from seedbed.crds.seed_layer import DataSource
from seedbed.crds.seed_policy import Training
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.seeds import data as data_module
from seedbed.runtime.seeds import places, training
from seedbed.runtime.seeds import server as server_module
from seedbed.runtime.seeds.attach import attach
from seedbed.runtime.seeds.begun import former_spec
from seedbed.runtime.seeds.data import Collected, check_fit, load_data
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import SeedState
from seedbed.runtime.seeds.training import Batch
from seedbed.runtime.seeds.wishes import attach_spec
from tests.conftest import run_async
from tests.seed_pods import asked_pod, data, model, pod, settings, spec_of, until
from tests.unit.test_seed_pod import changed, page

HERE = "tests.unit.test_seed_faults"
ROWS = [[0.1 * each for each in range(8)]] * 2
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def other_classes() -> Four:
    """Entry point: targets of more classes than the model knows."""
    inputs, targets, held_out, theirs = data()
    return inputs, targets + 90, held_out, theirs


def wide() -> Four:
    """Entry point: rows of another width than the model's."""
    inputs, targets, held_out, theirs = data()
    return torch.cat([inputs, inputs], 1), targets, torch.cat([held_out, held_out], 1), theirs


@pytest.mark.parametrize(
    ("entry", "words"), [("other_classes", "out of bounds"), ("wide", "refuses the inputs")]
)
def test_data_that_do_not_fit_the_model_are_one_error(entry: str, words: str) -> None:
    found = load_data(DataSource(entry=f"{HERE}:{entry}"), Training(), torch.device("cpu"))
    with pytest.raises(InvalidError, match=words) as caught:
        check_fit(lambda batch: model()(*batch.inputs), found)
    assert caught.value.field == "spec.data"


def test_a_batch_that_cannot_be_learnt_from_ends_training_and_not_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise IndexError("Target 99 is out of bounds.")

    monkeypatch.setattr(SeededModel, "train_epoch", refuse)

    async def body() -> None:
        async with asked_pod(tmp_path, spec_of()) as (server, url, session):
            await until(lambda: server.progress.reason)
            assert (server.progress.phase, server.progress.reason) == ("Serving", "Invalid")
            assert "spec.data" in server.progress.message
            assert server.progress.activity == "Waiting"
            assert (await page(session, f"{url}/v1/infer", {"inputs": ROWS}))[0] == 200

    run_async(body())


def test_rows_that_cannot_be_learnt_from_are_refused_when_they_come(tmp_path: Path) -> None:
    async def body() -> None:
        async with asked_pod(tmp_path, spec_of(data=None)) as (server, url, session):
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

    run_async(body())


_loading, _may_go_on = threading.Event(), threading.Event()


def endless() -> nn.Module:
    """Entry point: a model whose weights do not come."""
    _loading.set()
    assert _may_go_on.wait(60)
    return model()


@pytest.mark.req("ESP-11")
def test_a_pod_that_is_told_to_end_while_it_loads_does_not_wait_for_it(tmp_path: Path) -> None:
    async def body() -> None:
        bus = MemoryBus()
        spec = spec_of(model={"entry": f"{HERE}:endless"})
        async with settings(spec) as coordinator, pod(tmp_path, coordinator, bus):
            await until(_loading.is_set)
        assert not _may_go_on.is_set(), "it has ended while the model was on its way"
        await bus.close()

    try:
        run_async(body())
    finally:
        _may_go_on.set()


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


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may become larger than some bytes: what is raised then is what a full disk gives.

    Only around what is tested: the limit is the process's, and pytest's own report may go to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def host() -> Host:
    made = attach(model(), attach_spec(spec_of()), Features.all_on())
    return Host(made, Features.all_on(), None)


@pytest.mark.req("ESP-11")
def test_a_full_disk_is_a_place_that_does_not_take_a_checkpoint(tmp_path: Path) -> None:
    place, made = CheckpointPlace(str(tmp_path), "team.small"), host()
    with full_disk(), pytest.raises(UnavailableError, match="cannot be written"):
        asyncio.run(made.save(place, {}, 3))
    assert not list(tmp_path.rglob("*.safetensors*"))


def saved(folder: Path, times: int = 1, keep: int = 3) -> list[Path]:
    """Checkpoints of a pod, the newest first."""
    made, place = host(), CheckpointPlace(str(folder), "team.small")
    for _ in range(times):
        asyncio.run(made.save(place, {}, keep))
    return [Path(each.path) for each in place.kept()]


@pytest.mark.req("ESP-11")
def test_a_changed_byte_is_a_broken_checkpoint(tmp_path: Path) -> None:
    newest, before = saved(tmp_path, 2)
    whole = bytearray(newest.read_bytes())
    whole[-20] ^= 1
    newest.write_bytes(whole)
    again = host()
    assert again.resume(CheckpointPlace(str(tmp_path), "team.small"))
    assert again.resumed is not None
    assert again.resumed.path == str(before)


@pytest.mark.parametrize("about", [{}, {"format": "seedbed.seeds/2", "plan": "other"}])
def test_a_checkpoint_of_another_version_is_told_and_kept(
    tmp_path: Path, about: dict[str, str]
) -> None:
    (newest,) = saved(tmp_path)
    save_file({"x": torch.zeros(1)}, newest, about)
    place = CheckpointPlace(str(tmp_path), "team.small")
    with pytest.raises(InvalidError, match="format"):
        asyncio.run(Host.load(spec_of(), Features.all_on(), place))
    assert [Path(each.path) for each in place.kept()] == [newest]


@pytest.mark.parametrize(
    "change", [{"plan": "{torn"}, {"extra": "[]"}, {"shards": "many"}, {"plan": None}]
)
def test_a_checkpoint_that_says_nonsense_of_itself_is_a_broken_one(
    tmp_path: Path, change: dict[str, str | None]
) -> None:
    newest, before = saved(tmp_path, 2)
    with safe_open(newest, framework="pt") as opened:
        about = {**opened.metadata(), **change}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dictionary
    save_file(tensors, newest, {name: text for name, text in about.items() if text is not None})
    place = CheckpointPlace(str(tmp_path), "team.small")
    again = asyncio.run(Host.load(spec_of(), Features.all_on(), place))
    assert again.resumed is not None
    assert again.resumed.path == str(before)


def test_a_shape_of_another_version_in_a_checkpoint_costs_nothing(tmp_path: Path) -> None:
    (newest,) = saved(tmp_path)
    with safe_open(newest, framework="pt") as opened:
        about, tensors = opened.metadata(), {n: opened.get_tensor(n) for n in opened.keys()}  # noqa: SIM118 - as above
    shape = {"shape": '{"layers": 7, "ofTomorrow": true}'}
    save_file(tensors, newest, {**about, "extra": json.dumps(shape)})
    place = CheckpointPlace(str(tmp_path), "team.small")
    assert former_spec(spec_of(), place) is None


def test_metrics_of_seeds_go_with_the_seeds(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            settings(spec_of(checkpoint={"interval": "1ms"})) as coordinator,
            pod(tmp_path, coordinator, MemoryBus()) as (server, _),
        ):
            told = server._metrics.registry.get_sample_value
            await until(lambda: told("seedbed_seed_accuracy"))
            await until(lambda: told("seedbed_seeds", {"stage": "dormant"}))
            await coordinator.delete("flags/team/chunked-architecture")
            await until(lambda: server.progress.activity == "Off")
            assert told("seedbed_seeds", {"stage": "dormant"}) == 0
            assert math.isnan(told("seedbed_seed_accuracy") or 0.0)

    run_async(body())


def test_a_pod_of_millions_of_epochs_keeps_what_decides() -> None:
    found: tuple[float, ...] = ()
    for epoch in range(3 * training.KEPT_EPOCHS):
        found = training.kept(found, 0.9 if epoch == 7 else epoch / 1e5)
    assert len(found) <= 2 * training.KEPT_EPOCHS
    assert (found[0], max(found), found[-1]) == (0.0, 0.9, (3 * training.KEPT_EPOCHS - 1) / 1e5)
    state = SeedState.dormant(1)
    state.move(torch.tensor([int(Stage.GERMINATED)]), 1 << 40)
    assert state.history(0)[0][1:] == (Stage.DORMANT, Stage.GERMINATED)


def test_what_is_learnt_after_a_broken_checkpoint_is_kept(tmp_path: Path) -> None:
    (newest,) = saved(tmp_path, 3, keep=1)
    newest.write_bytes(b"torn")
    (after,) = saved(tmp_path, 1, keep=1)
    assert after.name == "seeds-0000000004.safetensors"
    again = host()
    assert again.resume(CheckpointPlace(str(tmp_path), "team.small"))
    assert again.model.checkpoints == 4


@pytest.mark.parametrize("before", [b"", b"no claim", b"\xff\xfe", b"41 somebody"])
def test_a_place_is_claimed_whatever_stands_there(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "team.small").mkdir()
    (tmp_path / "team.small" / "trainer").write_bytes(before)
    old, new = (CheckpointPlace(str(tmp_path), "team.small") for _ in range(2))
    old.claim()
    old.check_claim()
    new.check_claim()  # nobody could have claimed it before
    with pytest.raises(FencedError, match="is fenced off"):
        old.check_claim()
    new.check_claim()


def test_of_two_pods_that_train_at_one_place_the_older_one_follows(tmp_path: Path) -> None:
    async def body() -> None:
        bus = MemoryBus()
        often = spec_of(checkpoint={"interval": "1ms"}, lifecycle={"patience": 1000})
        async with settings(often) as coordinator, pod(tmp_path, coordinator, bus) as (old, _):
            await until(lambda: old.progress.checkpoint)
            async with pod(tmp_path, coordinator, bus) as (new, _):
                await until(lambda: old.progress.reason == "Fenced")
                assert (old.progress.phase, old.progress.activity) == ("Serving", "Waiting")
                await until(lambda: new.progress.checkpoint)
                place = CheckpointPlace(str(tmp_path), "team.small")
                taken = place.kept()[0].number
                follower = old.pages.host
                assert follower is not None
                await until(lambda: follower.resumed and follower.resumed.number >= taken)
        await bus.close()

    run_async(body())


def test_a_change_that_names_no_layer_leaves_the_former_spec_in_force(tmp_path: Path) -> None:
    async def body() -> None:
        bus = MemoryBus()
        async with (
            settings(spec_of()) as coordinator,
            pod(tmp_path, coordinator, bus) as (server, url),
            aiohttp.ClientSession() as session,
        ):
            await until(lambda: server.progress.checkpoint)
            await changed(coordinator, spec_of(layers=["nothing.*"]))
            await until(lambda: server.progress.reason == "Invalid")
            assert server.progress.phase == "Serving"
            assert "matches no layer" in server.progress.message
            assert (await page(session, f"{url}/v1/infer", {"inputs": ROWS}))[0] == 200
        await bus.close()

    run_async(body())


def test_callers_that_name_seeds_are_answered_with_everything_off(tmp_path: Path) -> None:
    async def body() -> None:
        async with asked_pod(tmp_path, spec_of(), flags=()) as (server, url, session):
            await until(lambda: not server.waiting)
            asked = {"inputs": ROWS, "route": [0, 3]}
            status, told = await page(session, f"{url}/v1/infer", asked)
            assert status == 200
            plain = model()(torch.tensor(ROWS))
            assert torch.allclose(torch.tensor(told["outputs"]), plain)

    run_async(body())


def test_data_that_have_gone_cost_the_training_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RETRY", 0.05)
    file = tmp_path / "data.safetensors"

    async def body() -> None:
        async with asked_pod(tmp_path / "seeds", spec_of(data={"url": str(file)})) as (
            server,
            url,
            session,
        ):
            await until(lambda: server.progress.reason == "Invalid")
            assert server.progress.phase == "Serving"
            assert "and there is none" in server.progress.message
            assert (await page(session, f"{url}/v1/infer", {"inputs": ROWS}))[0] == 200
            sent = {"inputs": ROWS, "targets": [0, 1]}
            assert (await page(session, f"{url}/v1/train", sent))[0] == 409
            names = ("inputs", "targets", "test_inputs", "test_targets")
            save_file(dict(zip(names, data(), strict=True)), file)
            await until(lambda: server.progress.activity == "Training")
            assert server.progress.reason == ""

    run_async(body())


def test_a_hash_of_much_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow(_: Host) -> str:
        begun.set()
        assert may_end.wait(20)
        return "hash"

    async def body() -> None:
        async with asked_pod(tmp_path, spec_of(lifecycle={"patience": 1000})) as (
            server,
            url,
            session,
        ):
            await until(lambda: not server.waiting)
            monkeypatch.setattr(Host, "digest", slow)
            hashing = asyncio.ensure_future(page(session, f"{url}/v1/state"))
            await until(begun.is_set)
            assert (await page(session, f"{url}/v1/infer", {"inputs": ROWS}))[0] == 200
            may_end.set()
            assert (await hashing)[1]["digest"] == "hash"

    run_async(body())


def test_what_callers_send_takes_no_more_memory_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data_module, "KEPT_BYTES", 1000)
    collected, row = Collected(), torch.zeros(10, 8)  # 400 bytes with its targets
    for number in range(30):
        kept = collected.take(Batch((row + number,), torch.zeros(10, dtype=torch.int64)))
    assert kept == 4, "two to learn from, two to measure by"
    found = collected.data()
    newest = [int(batch.inputs[0][0, 0]) for batch in found.held_out]
    assert newest == [20, 25]
    assert sorted(int(batch.inputs[0][0, 0]) for batch in found.train(0)) == [28, 29]
    collected.take(Batch((torch.zeros(1000, 8),), torch.zeros(1000, dtype=torch.int64)))
    assert len(collected.data().held_out) == 1
