"""The pod of a SeedLayer: loading, data, checkpoints' places, flags, pages, reports."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from seedbed.crds.errors import InvalidError
from seedbed.crds.seed_features import FEATURES, Features, active
from seedbed.crds.seed_layer import Blueprint, DataSource, ModelSource, SeedLayerSpec
from seedbed.crds.seed_messages import STAGES, SeedReport, seed_setting
from seedbed.crds.seed_policy import Training
from seedbed.crds.wire import decode
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.seeds.data import Collected, load_data
from seedbed.runtime.seeds.features import Features as RuntimeFeatures
from seedbed.runtime.seeds.figures import Served
from seedbed.runtime.seeds.group import Alone
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.loading import PackageMissingError, load_model
from seedbed.runtime.seeds.places import BrokenError, CheckpointPlace
from seedbed.runtime.seeds.policy import Decision, Limits
from seedbed.runtime.seeds.progress import stage_key
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.training import Batch
from seedbed.runtime.seeds.wishes import growth, limits
from tests.conftest import run_async
from tests.seed_pods import FLAGS, HERE, asked_pod, data, model, pod, settings, spec_of, until

CPU = torch.device("cpu")
REST = {"patience": 1000}


def entry(name: str) -> str:
    return f"{HERE}:{name}"


@pytest.mark.parametrize(
    ("source", "field", "words"),
    [
        ({"entry": "no_such_module:model"}, "spec.model.entry", "cannot be imported"),
        ({"entry": f"{HERE}:nothing"}, "spec.model.entry", "has no nothing"),
        ({"entry": f"{HERE}:HERE"}, "spec.model.entry", "is no function"),
        ({"entry": f"{HERE}:data"}, "spec.model.entry", "expected a torch module"),
        ({"entry": f"{HERE}:model", "arguments": {"x": 1}}, "spec.model.entry", "TypeError"),
        ({"entry": f"{HERE}:model", "weights": "/no/file"}, "spec.model.weights", "there is none"),
        ({"folder": "/no/folder"}, "spec.model.folder", "config.json"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_error_that_names_the_field(
    source: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        load_model(ModelSource.model_validate(source), CPU)
    assert caught.value.field == field
    assert words in caught.value.expected


def test_weights_come_from_safetensors_and_have_to_fit(tmp_path: Path) -> None:
    right = {name: torch.full_like(each, 0.5) for name, each in model().state_dict().items()}
    save_file(right, tmp_path / "right.safetensors")
    save_file({"head.weight": right["head.weight"]}, tmp_path / "wrong.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04N.")
    source = {"entry": entry("model"), "weights": str(tmp_path / "right.safetensors")}
    loaded = load_model(ModelSource.model_validate(source), CPU)
    assert all(bool((each == 0.5).all()) for each in loaded.parameters())
    assert not loaded.training
    url = f"file://{tmp_path}/right.safetensors"
    load_model(ModelSource.model_validate({**source, "weights": url}), CPU)
    for name, words in (("wrong", "does not fit"), ("pickle", "a pickle, which is never loaded")):
        wrong = {**source, "weights": str(tmp_path / f"{name}.safetensors")}
        with pytest.raises(InvalidError, match=words):
            load_model(ModelSource.model_validate(wrong), CPU)


def test_a_folder_needs_its_package_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(PackageMissingError, match="transformers"):
        load_model(ModelSource(folder=str(tmp_path)), CPU)


def test_data_come_from_safetensors_npz_and_entry_points_alike(tmp_path: Path) -> None:
    names = ("inputs", "targets", "test_inputs", "test_targets")
    arrays = dict(zip(names, data(), strict=True))
    save_file(arrays, tmp_path / "d.safetensors")
    np.savez(
        tmp_path / "d.npz", allow_pickle=False, **{n: each.numpy() for n, each in arrays.items()}
    )
    sources = (
        DataSource(entry=entry("data")),
        DataSource(url=str(tmp_path / "d.safetensors")),
        DataSource(url=f"file://{tmp_path}/d.npz"),
    )
    pace = Training(batch_size=50, learning_rate=0.5, fine_learning_rate=0.25)
    first: list[Batch] = []
    for source in sources:
        found = load_data(source, pace, CPU)
        batches = list(found.train(3))
        assert [len(batch.target) for batch in batches] == [50, 50, 28]
        assert (found.rate, found.fine_rate) == (0.5, 0.25)
        first = first or batches
        assert all(map(torch.equal, first[0].inputs, batches[0].inputs)), "the same order"
        assert len(found.held_out[0].target) == 32
    assert not torch.equal(next(iter(found.train(4))).target, first[0].target)


def test_data_that_are_none_are_told(tmp_path: Path) -> None:
    save_file({"inputs": torch.zeros(2, 8)}, tmp_path / "d.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"words")
    np.savez(tmp_path / "evil.npz", inputs=np.array([{}], dtype=object))
    for file, words in (("d", "has no targets"), ("x", "whole"), ("evil", "allow_pickle")):
        name = f"{file}.npz" if file == "evil" else f"{file}.safetensors"
        with pytest.raises(InvalidError, match=words):
            load_data(DataSource(url=str(tmp_path / name)), Training(), CPU)


def test_data_come_from_tables_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(
        "a,target,b,split,route\n1,0,2.5,train,3\n4,1,5,test,-1\n7,2,8,train,0\n"
    )
    lines = [
        {"inputs": [1, 2.5], "target": 0, "route": 3},
        {"inputs": [4, 5], "target": 1, "split": "test", "route": -1},
        {"inputs": [7, 8], "target": 2, "route": 0},
    ]
    for line in lines:
        line.setdefault("split", "train")
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    for name in ("d.csv", "d.jsonl"):
        found = load_data(DataSource(url=f"file://{tmp_path}/{name}"), Training(), CPU)
        (batch,), (judged,) = list(found.train(0)), found.held_out
        order = batch.target.argsort()
        assert batch.inputs[0][order].tolist() == [[1, 2.5], [7, 8]]
        assert batch.target[order].tolist() == [0, 2]
        assert batch.target.dtype == torch.int64
        assert batch.route is not None
        assert batch.route[order].tolist() == [3, 0]
        assert judged.inputs[0].tolist() == [[4, 5]]
    plain = "x,target\n" + "".join(f"{n},{n / 2}\n" for n in range(10))
    (tmp_path / "p.csv").write_text(plain)
    found = load_data(DataSource(url=str(tmp_path / "p.csv")), Training(), CPU)
    assert found.held_out[0].target.tolist() == [2.0, 4.5], "every fifth row"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("d.csv", "a,b\n1,2\n", "line 1 .*: the first one names the columns: `target`"),
        ("d.csv", "a,target\n1,2\n1\n", "line 2 .*: expected 2 columns"),
        ("d.csv", "a,target\n1,2\nx,2\n", "line 2 .*: a: 'x' is no number"),
        ("d.csv", "a,target,split\n1,2,some\n", "split: expected train or test, got 'some'"),
        ("d.csv", "a,target\n1,2\n", "has no test_inputs"),
        ("d.jsonl", "[1]\n", "line 1 .*: expected an object with inputs and target"),
        ("d.jsonl", '{"inputs": [1], "target": 0}\n{"inputs": [1, 2], "target": 0}\n', "shape"),
        ("d.jsonl", '{"inputs": [1], "target": 0}\n{"inputs": [1]', "line 1 or the one after it"),
        ("d.parquet", "PAR1", "whole safetensors file .*; .npz, .csv and .jsonl are known"),
    ],
)
def test_a_wrong_line_is_one_error_that_says_which(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidError, match=words) as caught:
        load_data(DataSource(url=str(tmp_path / name)), Training(), CPU)
    assert caught.value.field == "spec.data.url"


def saying(text: str) -> Callable[[Path], None]:
    """Writes a file with the text."""

    def write(path: Path) -> None:
        path.write_text(text)

    return write


def test_a_place_keeps_the_newest_and_passes_broken_ones_over(tmp_path: Path) -> None:
    place = CheckpointPlace(str(tmp_path), "team.small")
    assert place.kept() == []
    for number in (1, 2, 10):
        place.store(number, saying("whole"), 2)
    assert [kept.number for kept in place.kept()] == [10, 2]
    place.store(11, saying("broken"), 3)

    def read(path: Path) -> None:
        if path.read_text() == "broken":
            raise BrokenError(path.name)

    newest = place.newest(read)
    assert newest is not None
    assert newest.number == 10


def test_a_place_may_be_an_object_store() -> None:
    place = CheckpointPlace("memory://bucket/seeds", "team.small")
    assert place.store(7, saying("whole"), 3) == 5
    found: list[str] = []
    newest = place.newest(lambda path: found.append(path.read_text()))
    assert newest is not None
    assert (newest.number, found) == (7, ["whole"])
    with pytest.raises(InvalidError, match="checkpoint"):
        CheckpointPlace("nothing-of-the-kind://x", "y").kept()


@pytest.mark.req("ESP-02", "ESP-03")
def test_features_are_off_without_their_flag_and_the_environment_overrides() -> None:
    def nothing(_: str) -> bool:
        return False

    assert active(Features(), nothing, {}) == frozenset()
    only = active(Features(), lambda flag: flag == "triton-kernels", {})
    assert only == {"triton_kernels"}
    renamed = Features(message_bus="telemetry-on")
    assert active(renamed, lambda flag: flag == "telemetry-on", {}) == {"message_bus"}
    variable = "MORPHOGENETIC_FEATURE_CHUNKED_ARCHITECTURE"
    assert active(Features(), nothing, {variable: "true"}) == {"chunked_architecture"}
    everything = active(Features(), lambda _: True, {variable: "off"})
    assert everything == set(FEATURES) - {"chunked_architecture"}


def test_every_stage_has_its_place_in_the_status() -> None:
    assert {stage_key(stage) for stage in Stage} == set(STAGES)


def test_the_defaults_of_the_spec_are_those_of_the_policy() -> None:
    spec = spec_of(lifecycle={}, blueprints=[{"type": "lowRank"}, {"type": "norm"}])
    assert limits(spec) == Limits(blueprints=("low-rank-8", "norm"))
    assert growth(Blueprint(type="mlp", rank=3)).name == "mlp-3"


def test_percentiles_are_of_the_last_minute() -> None:
    now = 0.0
    served = Served(lambda: now)
    assert served.percentiles() is None
    for number in range(1, 101):
        served.add(number / 1000, 3)
    found = served.percentiles()
    assert found is not None
    assert (found.p50, found.p95, found.p99) == (0.05, 0.095, 0.099)
    assert served.throughput == 5
    now = 61.0
    assert served.percentiles() is None
    assert served.throughput == 0


def test_one_in_five_batches_of_callers_is_measured_by() -> None:
    collected = Collected()
    batch = Batch((torch.zeros(1, 8),), torch.zeros(1, dtype=torch.int64))
    assert collected.take(batch) == 1
    assert not collected.ready, "there is nothing to learn from yet"
    for _ in range(9):
        collected.take(batch)
    assert collected.ready
    found = collected.data()
    assert (len(list(found.train(1))), len(found.held_out)) == (8, 2)
    assert not collected.ready


async def page(
    session: aiohttp.ClientSession, url: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    method = "GET" if body is None else "POST"
    async with session.request(method, url, json=body, headers=headers) as found:
        return found.status, json.loads(await found.text())


ROWS = [[0.1 * each for each in range(8)]] * 2


@pytest.mark.req("ESP-03")
def test_with_everything_off_the_pod_is_the_plain_model(tmp_path: Path) -> None:
    async def body() -> None:
        spec, bus = spec_of(), MemoryBus()
        async with (
            settings(spec, flags=()) as coordinator,
            pod(tmp_path, coordinator, bus) as (server, url),
            aiohttp.ClientSession() as session,
        ):
            await until(lambda: not server.waiting)
            status, told = await page(session, f"{url}/v1/infer", {"inputs": ROWS})
            assert status == 200
            with torch.inference_mode():
                plain = model().eval()(torch.tensor(ROWS))
            assert torch.equal(torch.tensor(told["outputs"]), plain)
            _, about = await page(session, f"{url}/v1/model")
            assert about["layers"] == about["features"] == []
            assert server.progress.activity == "Off"
            # A flag alone, with no restart, brings the seeds.
            await coordinator.put("flags/team/chunked-architecture", b"{}")
            await until(lambda: server.progress.activity not in ("Off", "Waiting"))
            _, about = await page(session, f"{url}/v1/model")
            assert [layer["name"] for layer in about["layers"]] == ["body.0", "body.1"]
        await bus.close()

    run_async(body())


def test_a_pod_trains_decides_reports_and_streams(tmp_path: Path) -> None:
    async def body() -> None:
        spec, bus = spec_of(training={"epochs": 12, "learningRate": 0.05}), MemoryBus()
        reports: list[SeedReport] = []

        async def hear(bus: Bus) -> None:
            async with bus.hear("seeds.>") as messages:
                async for message in messages:
                    report = decode(SeedReport, message.payload)
                    reports.append(report)

        hearing = asyncio.ensure_future(hear(bus))
        async with (
            settings(spec) as coordinator,
            pod(tmp_path, coordinator, bus) as (server, url),
            aiohttp.ClientSession() as session,
        ):
            await until(lambda: server.progress.activity == "Ended")
            await until(lambda: reports and reports[-1].activity == "Ended")
            last = reports[-1]
            assert (last.phase, last.epoch, last.trains) == ("Serving", 12, True)
            assert sum(last.stages.values()) == 8
            assert last.decision is not None
            assert last.checkpoint is not None
            _, log = await page(session, f"{url}/v1/decisions")
            assert log["total"] == last.decisions == len(log["decisions"]) > 0
            assert all(one["reason"] and one["rule"] for one in log["decisions"])
            _, later = await page(session, f"{url}/v1/decisions?after=1")
            assert later["decisions"] == log["decisions"][1:]
            _, seeds = await page(session, f"{url}/v1/seeds")
            assert seeds["stages"] == last.stages
            assert seeds["awake"][0]["moves"]
            # A change of the spec holds at once: three epochs more.
            more = spec_of(training={"epochs": 15, "learningRate": 0.05})
            value = more.model_dump_json(by_alias=True).encode()
            await coordinator.put(seed_setting("team", "small"), value)
            await until(lambda: reports[-1].epoch == 15 and reports[-1].activity == "Ended")
        assert reports[-1].phase == "Ending"
        hearing.cancel()
        kinds = await streamed(bus)
        assert kinds == {"seeds.telemetry", "seeds.decision"}
        await bus.close()

    run_async(body())


async def streamed(bus: Bus) -> set[str]:
    """Kinds of the events about the SeedLayer."""
    await bus.events.flush()
    kinds = set()
    for partition in range(16):
        async with bus.events.follow("", partition) as follower:
            while (found := await follower.next(0.01)) is not None:
                kinds |= {event.kind for event in found.events if event.key == "seeds/team/small"}
                await follower.ack(found)
    return kinds


def test_a_model_that_is_missing_is_reported_and_loaded_when_the_spec_changes(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        wrong = spec_of(model={"entry": f"{HERE}:nothing"})
        bus = MemoryBus()
        async with (
            settings(wrong) as coordinator,
            pod(tmp_path, coordinator, bus) as (server, url),
            aiohttp.ClientSession() as session,
        ):
            await until(lambda: server.progress.phase == "Failed")
            assert (server.progress.reason, server.waiting) == ("Invalid", True)
            assert "spec.model.entry" in server.progress.message
            status, told = await page(session, f"{url}/v1/infer", {"inputs": ROWS})
            assert status == 503
            assert "spec.model.entry" in told["error"]["message"]
            value = spec_of().model_dump_json(by_alias=True).encode()
            await coordinator.put(seed_setting("team", "small"), value)
            await until(lambda: not server.waiting)
        await bus.close()

    run_async(body())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs: is required"),
        ({"inputs": "text"}, "expected numbers"),
        ({"inputs": [[1.0], [1.0, 2.0]]}, "rows of one length"),
        ({"inputs": [[1.0, 2.0]]}, "the model refuses them"),
        ({"inputs": ROWS, "route": [9, 9]}, "route: expected seeds from 0 to 3"),
        ([], "expected an object"),
    ],
)
def test_a_request_that_is_wrong_is_one_sentence(tmp_path: Path, body: Any, words: str) -> None:
    async def ask() -> None:
        async with asked_pod(tmp_path, spec_of(lifecycle=REST)) as (server, url, session):
            await until(lambda: not server.waiting)
            status, told = await page(session, f"{url}/v1/infer", body)
            assert status == 400
            assert words in told["error"]["message"]

    run_async(ask())


def test_a_token_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    async def body() -> None:
        async with asked_pod(tmp_path, spec_of(lifecycle=REST), token="secret") as (
            server,
            url,
            session,
        ):
            await until(lambda: not server.waiting)
            assert (await page(session, f"{url}/v1/seeds"))[0] == 401
            wrong, right = {"Authorization": "Bearer x"}, {"Authorization": "Bearer secret"}
            assert (await page(session, f"{url}/v1/seeds", **wrong))[0] == 401
            assert (await page(session, f"{url}/v1/seeds", **right))[0] == 200

    run_async(body())


def test_what_callers_send_is_trained_on_where_the_spec_names_no_data(tmp_path: Path) -> None:
    async def body() -> None:
        async with asked_pod(tmp_path, spec_of(data=None)) as (server, url, session):
            await until(lambda: server.progress.activity == "Waiting" and not server.waiting)
            inputs, targets, *_ = data()
            for at in range(10):
                rows = slice(at * 8, at * 8 + 8)
                sent = {"inputs": inputs[rows].tolist(), "targets": targets[rows].tolist()}
                status, told = await page(session, f"{url}/v1/train", sent)
                assert (status, told) == (202, {"kept": at + 1})
            host = server.pages.host
            assert host is not None
            await until(lambda: host.model.epoch >= 1)
            short = {"inputs": ROWS, "targets": [1]}
            assert (await page(session, f"{url}/v1/train", short))[0] == 400

    run_async(body())


def test_the_other_pods_serve_what_the_first_has_checkpointed(tmp_path: Path) -> None:
    async def body() -> None:
        bus = MemoryBus()
        spec = spec_of(training={"epochs": 6})
        async with (
            settings(spec) as coordinator,
            pod(tmp_path, coordinator, bus, number=1) as (second, url),
            aiohttp.ClientSession() as session,
        ):
            await until(lambda: not second.waiting)
            status, told = await page(session, f"{url}/v1/train", {})
            assert status == 409
            assert re.search("only serves", told["error"]["message"])
            async with pod(tmp_path, coordinator, bus) as (first, _):
                await until(lambda: first.progress.activity == "Ended")
                trained = first.pages.host
                assert trained is not None
            served = second.pages.host
            assert served is not None
            await until(lambda: served.model.epoch == 6)
            assert served.digest() == trained.digest()
        await bus.close()

    run_async(body())


def test_flags_of_the_tests_are_the_features() -> None:
    assert set(FLAGS) == {Features.model_fields[name].default for name in FEATURES}


async def changed(coordinator: MemoryCoordinator, spec: SeedLayerSpec) -> None:
    value = spec.model_dump_json(by_alias=True).encode()
    await coordinator.put(seed_setting("team", "small"), value)


def test_a_changed_spec_is_taken_over_with_the_state_there_is(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            settings(spec_of(lifecycle=REST)) as coordinator,
            pod(tmp_path, coordinator, MemoryBus()) as (server, _),
        ):
            await until(lambda: server.pages.host and server.pages.host.model.epoch > 2)
            assert server.pages.host is not None
            epoch = server.pages.host.model.epoch
            forms = [{"type": "lowRank", "rank": 4}, {"type": "norm"}]
            new = spec_of(lifecycle=REST, blueprints=forms, layers=["body.0"])
            await changed(coordinator, new)
            await until(lambda: server.pages.host and len(server.pages.host.model.blueprints) == 2)
            host = server.pages.host
            assert host is not None
            assert host.model.epoch >= epoch
            assert [layer.name for layer in host.model.layers] == ["body.0"]
            assert host.resumed is not None
            assert (server.progress.phase, server.progress.reason) == ("Serving", "")

    run_async(body())


def test_a_spec_that_would_lose_a_fossil_leaves_the_former_one_in_force(tmp_path: Path) -> None:
    """Also in a pod that starts after the change, and until the change is taken back."""
    spec = spec_of(lifecycle=REST)
    made = Host.made(spec, RuntimeFeatures.all_on(), Alone())
    name, before = made.model.blueprints[0].name, Stage.DORMANT
    for after in (*range(1, 8),):
        stage = Stage(after)
        move = Decision(0, 1, "body.0", 1, before, stage, "test", "test", {}, name, "linear")
        assert made.model.apply([move])
        before = stage

    async def body() -> None:
        await made.save(CheckpointPlace(str(tmp_path), "team.small"), {}, 3)
        wrong = spec_of(lifecycle=REST, blueprints=[{"type": "norm"}])
        async with (
            settings(wrong) as coordinator,
            pod(tmp_path, coordinator, MemoryBus()) as (server, url),
        ):
            await until(lambda: server.progress.reason == "UnfitCheckpoint")
            assert server.progress.phase == "Serving"
            assert "seed 1 of body.0 (its blueprint low-rank-4 is gone)" in server.progress.message
            async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/model") as answer:
                page = await answer.json()
            assert page["blueprints"] == ["low-rank-4"]
            await changed(coordinator, spec)
            await until(lambda: server.progress.phase == "Serving" and not server.progress.reason)

    run_async(body())
    run_async(made.close())
