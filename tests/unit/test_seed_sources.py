"""Models and data that cannot be had, or are not what they should be: one error that says which field."""

from __future__ import annotations

import io
import pickle
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save, save_file
from torch import nn

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.crds.seed_layer import DataSource, ModelSource
from seedbed.crds.seed_policy import Training
from seedbed.runtime.seeds import host as host_module
from seedbed.runtime.seeds import server as server_module
from seedbed.runtime.seeds.data import load_data, watched
from seedbed.runtime.seeds.fetching import SourceAwayError, address, told
from seedbed.runtime.seeds.loading import load_model
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.training import Batch, Data
from tests.conftest import run_async
from tests.seed_pods import asked_pod, data, model, spec_of, until

HERE = "tests.unit.test_seed_sources"
CPU = torch.device("cpu")
ARRAYS = dict(zip(("inputs", "targets", "test_inputs", "test_targets"), data(), strict=True))
NUMBERS: dict[str, Any] = {name: each.numpy() for name, each in ARRAYS.items()}
SECRET = "c3cr3t"
URL = f"remote://me:{SECRET}@bucket/a.safetensors?X-Signature={SECRET}"


class NoCredentialsError(Exception):
    """As botocore tells that it knows no key: no OSError, and of no root that others share."""


class EndpointConnectionError(Exception):
    """As botocore tells that nobody listens."""


class ParamValidationError(Exception):
    """As botocore tells of a bucket whose name is none."""


class ResponseError(Exception):
    """As aiohttp tells of an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Remote(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A place that does what a test wants of it."""

    protocol = "remote"
    raised: Exception | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("remote://").strip("/")

    def get_file(self, rpath: str, lpath: str, **more: Any) -> None:
        self._fail()
        super().get_file(rpath, lpath, **more)

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        self._fail()
        return super().ls(path, detail, **more)

    def cat_file(self, path: str, *given: Any, **more: Any) -> Any:
        self._fail()
        return super().cat_file(path, *given, **more)

    def _fail(self) -> None:
        if Remote.raised is not None:
            raise Remote.raised


@pytest.fixture(autouse=True)
def _remote() -> None:
    fsspec.register_implementation("remote", Remote, clobber=True)
    Remote.raised = None


def weighed(url: str) -> nn.Module:
    return load_model(ModelSource(entry="tests.seed_pods:model", weights=url), CPU)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (FileNotFoundError("The specified key does not exist."), InvalidError, "there is none"),
        (FileNotFoundError("The bucket does not exist"), InvalidError, "bucket does not exist"),
        (PermissionError("Forbidden"), InvalidError, "access is refused"),
        (NoCredentialsError("Unable to locate credentials"), InvalidError, "access is refused"),
        (ResponseError(403), InvalidError, "access is refused"),
        (ResponseError(503), SourceAwayError, "does not answer"),
        (ParamValidationError(f'"me:{SECRET}@bucket"'), InvalidError, "ParamValidationError"),
        (EndpointConnectionError(f"no {URL}"), SourceAwayError, "does not answer"),
        (TimeoutError(), SourceAwayError, "does not answer: TimeoutError"),
        (IsADirectoryError("x"), InvalidError, "that is a folder"),
    ],
)
def test_a_place_that_fails_is_one_error_with_field_and_address_and_no_secret(
    raised: Exception, kind: type[SeedbedError], words: str
) -> None:
    Remote.raised = raised
    for field, load in (
        ("spec.model.weights", lambda: weighed(URL)),
        ("spec.data.url", lambda: load_data(DataSource(url=URL), Training(), CPU)),
    ):
        with pytest.raises(SeedbedError) as caught:
            load()
        assert type(caught.value) is kind
        said = caught.value.message
        assert said.startswith(f"{field}: ")
        assert words in said
        assert "remote://bucket/a.safetensors" in said
        assert SECRET not in said
    if not isinstance(raised, FileNotFoundError):
        with pytest.raises(UnavailableError) as refused:
            CheckpointPlace(URL, "team.small").claim()
        assert refused.value.message.startswith("spec.checkpoint: checkpoints cannot be read at")
        assert SECRET not in refused.value.message


def test_a_folder_where_a_file_is_expected_is_told(tmp_path: Path) -> None:
    fsspec.filesystem("remote").pipe_file("/bucket/folder/x", b"1")
    for url in (str(tmp_path), f"file://{tmp_path}", "remote://bucket/folder"):
        with pytest.raises(InvalidError, match="that is a folder"):
            weighed(url)


def test_a_signed_address_keeps_its_ending_and_loses_its_signature(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **NUMBERS)
    fsspec.filesystem("remote").pipe_file("/bucket/d.npz?X-Sig=1", buffer.getvalue())
    found = load_data(DataSource(url="remote://bucket/d.npz?X-Sig=1"), Training(), CPU)
    assert len(found.held_out[0].target) == 32
    assert address("https://a:b@host/x?y=z#w") == "https://host/x"
    assert told(ValueError("see https://a:b@host/x?y=z now")) == "see https://host/x now"


def pickled() -> bytes:
    return pickle.dumps({"weight": [1.0]})


def archived() -> bytes:
    buffer = io.BytesIO()
    torch.save(model().state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickled(), "a pickle, which is never loaded"),
        (archived(), "a pickle, which is never loaded"),
        (save(ARRAYS)[:-9], "whole safetensors file"),
        (save(ARRAYS)[:5], "whole safetensors file"),
        (b"", "whole safetensors file"),
        (b"\x10\0\0\0\0\0\0\0{not json at all}", "whole safetensors file"),
    ],
)
def test_a_file_that_is_no_whole_safetensors_file_is_refused(
    content: bytes, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.safetensors"
    file.write_bytes(content)
    with pytest.raises(InvalidError, match=words) as of_model:
        weighed(str(file))
    with pytest.raises(InvalidError, match=words) as of_data:
        load_data(DataSource(url=str(file)), Training(), CPU)
    assert (of_model.value.field, of_data.value.field) == ("spec.model.weights", "spec.data.url")


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npz(**NUMBERS)[:300], "npz file of numbers"),
        (b"", "npz file of numbers"),
        (npy(), "npz file of numbers"),
        (pickled(), "a pickle, which is never loaded"),
        (npz(**NUMBERS | {"targets": np.array([{}] * 128, dtype=object)}), "allow_pickle"),
        (npz(**NUMBERS | {"targets": np.array(["a"] * 128)}), "npz file of numbers"),
        (npz(**NUMBERS | {"targets": np.full(128, np.nan)}), "targets: expected finite numbers"),
        (npz(**NUMBERS | {"test_inputs": np.full((32, 8), np.inf)}), "test_inputs: expected fin"),
    ],
)
def test_an_npz_file_that_is_none_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(content)
    with pytest.raises(InvalidError, match=words) as caught:
        load_data(DataSource(url=str(file)), Training(), CPU)
    assert caught.value.field == "spec.data.url"


@pytest.mark.parametrize(
    "line",
    ["{", '{"inputs": {"a": 1}, "target": 0}', '{"inputs": [1' + "0" * 400 + '], "target": 0}',
     "[" * 3000, '{"inputs": [1], "target": null}'],
)  # fmt: skip
def test_a_line_that_is_no_row_is_told_by_its_number(line: str, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"inputs": [1.0], "target": 0}\n' * 5 + line + "\n")
    with pytest.raises(InvalidError, match=r"line [56]|finite") as caught:
        load_data(DataSource(url=str(file)), Training(), CPU)
    assert caught.value.field == "spec.data.url"


@pytest.mark.parametrize("wrong", ["config", "weights", "pickle", "list"])
def test_a_folder_that_holds_no_model_is_one_error(wrong: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    kind = '{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9,'
    whole = kind + ' "num_attention_heads": 1, "intermediate_size": 8}'
    told = {"config": "{no json", "list": "[1]"}.get(wrong, whole)
    (tmp_path / "config.json").write_text(told)
    if wrong == "pickle":
        torch.save({}, tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "model.safetensors").write_bytes(save(ARRAYS)[:99])
    with pytest.raises(InvalidError, match="Hugging Face with safetensors files") as caught:
        load_model(ModelSource(folder=str(tmp_path)), CPU)
    assert caught.value.field == "spec.model.folder"


def texts() -> Any:
    """Entry point: four things of which one is no tensor."""
    return data()[:3] + ("labels",)  # noqa: RUF005 - a tuple and text


def failing() -> Data:
    """Entry point: batches that end in the middle with an error of the user's."""

    def train(_: int) -> Any:
        yield Batch((data()[0],), data()[1])
        raise KeyError("shard 7")

    return Data(train, (Batch((data()[2],), data()[3]),))


def test_what_an_entry_point_gives_wrongly_is_one_error() -> None:
    with pytest.raises(InvalidError, match="expected four tensors"):
        load_data(DataSource(entry=f"{HERE}:texts"), Training(), CPU)
    found = load_data(DataSource(entry=f"{HERE}:failing"), Training(), CPU)
    with pytest.raises(InvalidError, match="KeyError: 'shard 7'"):
        list(watched(found, lambda: None).train(0))


def test_a_place_that_does_not_answer_becomes_the_pods_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RETRY", 0.05)
    Remote.raised = EndpointConnectionError("Could not connect")
    spec = spec_of(model={"entry": "tests.seed_pods:model", "weights": URL})

    async def body() -> None:
        async with asked_pod(tmp_path, spec) as (server, _, _):
            await until(lambda: server.progress.phase == "Failed")
            assert server.progress.reason == "SourceUnavailable"
            assert "spec.model.weights: remote://bucket/a.safetensors" in server.progress.message
            path = f"/me:{SECRET}@bucket/a.safetensors?X-Signature={SECRET}"
            fsspec.filesystem("remote").pipe_file(path, save(model().state_dict()))
            Remote.raised = None
            await until(lambda: server.progress.phase == "Serving")
            assert server.progress.reason == ""

    run_async(body())


def test_data_that_turn_out_unfit_are_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RETRY", 0.05)
    file = tmp_path / "data.safetensors"
    wrong = ARRAYS["targets"].clone()
    wrong[100] = 99  # in a later batch than the first, which alone is tried at first
    save_file({**ARRAYS, "targets": wrong}, file)
    spec = spec_of(data={"url": str(file)}, training={"batchSize": 4}, lifecycle={"patience": 1000})

    async def body() -> None:
        async with asked_pod(tmp_path / "seeds", spec) as (server, _, _):
            await until(lambda: server.pages.host is not None)
            host = server.pages.host
            assert host is not None
            await until(lambda: host.model.epoch >= 1 or server.progress.reason)
            # No seed learns yet, so no epoch has looked at that row: what trains would refuse it.
            host.data, host.unfit = None, InvalidError("spec.data", "made to look again")
            await host.look_for_data()
            assert host.unfit is not None
            assert "out of bounds" in host.unfit.message
            save_file(ARRAYS, file)
            await host.look_for_data()
            assert host.unfit is None
            assert host.data is not None

    run_async(body())


def test_a_pod_that_is_told_to_end_does_not_wait_for_data_that_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RETRY", 0.05)
    Remote.raised = TimeoutError("slow")
    looking, may_go_on = threading.Event(), threading.Event()

    def hanging(*_: Any, **__: Any) -> Any:
        looking.set()
        assert may_go_on.wait(60)
        return None, InvalidError("spec.data.url", "late")

    async def body() -> None:
        async with asked_pod(tmp_path, spec_of(data={"url": URL})) as (server, _, _):
            await until(lambda: server.progress.reason == "SourceUnavailable")
            assert server.progress.phase == "Serving"
            monkeypatch.setattr(host_module, "fitting_data", hanging)
            await until(looking.is_set)
        assert not may_go_on.is_set(), "it has ended meanwhile"

    try:
        run_async(body())
    finally:
        may_go_on.set()
    assert list(tmp_path.rglob("*.safetensors")), "and saved"
