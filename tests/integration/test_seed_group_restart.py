"""A pod whose two processes train together: one is killed, and the group goes on from its checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seedbed.runtime.seeds import checkpoint
from seedbed.runtime.seeds.places import CheckpointPlace
from tests.seed_groups import free_port
from tests.seed_pods import data


def look(path: Path) -> None:
    """Whether a checkpoint is whole."""
    checkpoint.about(path)


class Pod:
    """A pod with two processes, as torchrun's elastic launch runs them."""

    def __init__(self, folder: Path, least: int = 1) -> None:
        self.folder, self.port = folder, free_port()
        command = [
            sys.executable, "-m", "tests.seed_group_pod", str(folder), str(self.port), str(least),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def pid(self, rank: int) -> int:
        """Of the newest process of a rank; 0 while there is none."""
        try:
            return int((self.folder / f"pid-{rank}").read_text())
        except FileNotFoundError:
            return 0

    def end(self) -> None:
        """Kill all of its processes."""
        self.process.kill()
        for rank in (0, 1):
            if pid := self.pid(rank):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """A page of the first process; {} while it does not answer."""
        try:
            port = int((self.folder / "port").read_text())
            data = None if body is None else json.dumps(body).encode()
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{path}", data, timeout=20
            ) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except OSError:
            return {}

    def until_told(self, words: str) -> str:
        """Wait until the first process says this of its phase; gives all that it says."""
        end, said = time.monotonic() + 100, ""
        while words not in said:
            assert time.monotonic() < end, said
            assert self.process.poll() is None, "the pod has ended"
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError):
                said = (self.folder / "told").read_text()
        return said

    def until(self, path: str, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        end = time.monotonic() + 150
        while not ((found := self.ask(path)) and holds(found)):
            assert time.monotonic() < end, f"{path} says {found}"
            assert self.process.poll() is None, "the pod has ended"
            time.sleep(0.05)
        return found


@pytest.mark.timeout(400)
def test_a_process_that_is_killed_costs_the_group_a_restart_from_the_checkpoint(
    tmp_path: Path,
) -> None:
    pod = Pod(tmp_path)
    try:
        seen = pod.until("/v1/model", lambda page: page["epoch"] > 5)
        assert seen["resumed"] is None
        assert seen["group"] == {"processes": 2, "seeds": "sharded"}
        row = [[0.1] * 8] * 3
        answer = pod.ask("/v1/infer", {"inputs": row})
        assert len(answer["outputs"]) == 3, "the shards answer together while they train"
        first = pod.pid(0), pod.pid(1)
        os.kill(first[1], signal.SIGKILL)
        pod.until("/v1/model", lambda page: page["resumed"] and pod.pid(0) != first[0])
        again = pod.until("/v1/model", lambda page: page["epoch"] > seen["epoch"] + 1)
        assert again["resumed"]["checkpoint"] > 0
        assert pod.pid(1) not in (0, first[1])
        pod.process.terminate()
        assert pod.process.wait(60) == 0
        place = CheckpointPlace(str(tmp_path), "team.small")
        newest = place.kept()[0]
        assert newest.number > again["resumed"]["checkpoint"], (
            "it has saved when it was told to end"
        )
        assert place.newest(look) == newest, "with all of its shards"
    finally:
        pod.end()


def named_data() -> dict[str, torch.Tensor]:
    """The data as a safetensors source names them."""
    return dict(zip(("inputs", "targets", "test_inputs", "test_targets"), data(), strict=True))


@pytest.mark.timeout(400)
def test_a_group_serves_without_data_that_are_wrong_and_learns_once_they_are_mended(
    tmp_path: Path,
) -> None:
    file = tmp_path / "data.safetensors"
    whole = named_data()
    save_file(whole, file)
    file.write_bytes(file.read_bytes()[:-100])
    (tmp_path / "spec.json").write_text(json.dumps({"data": {"url": str(file)}}))
    pod = Pod(tmp_path)
    try:
        said = pod.until_told("Serving Invalid")
        assert "spec.data.url: expected a whole safetensors file" in said
        first = pod.pid(0), pod.pid(1)
        answer = pod.ask("/v1/infer", {"inputs": [[0.1] * 8] * 3})
        assert len(answer["outputs"]) == 3, "the group answers"
        beside = tmp_path / "beside"
        save_file({**whole, "targets": whole["targets"] + 90}, beside)
        beside.replace(file)
        pod.until_told("out of bounds")
        save_file(whole, beside)
        beside.replace(file)
        pod.until("/v1/model", lambda page: page["epoch"] > 3)
        assert (pod.pid(0), pod.pid(1)) == first, "no process was started anew"
        pod.until_told("Serving  ")
    finally:
        pod.end()


@pytest.mark.timeout(400)
def test_a_batch_that_a_group_cannot_learn_from_costs_one_restart_and_is_told(
    tmp_path: Path,
) -> None:
    """The row stands in a later batch than the first, which alone is tried before training begins."""
    file = tmp_path / "data.safetensors"
    whole = named_data()
    wrong = whole["targets"].clone()
    wrong[torch.randperm(128, generator=torch.Generator().manual_seed(0))[-1]] = 99
    save_file({**whole, "targets": wrong}, file)
    own = {"data": {"url": str(file)}, "training": {"batchSize": 4, "interval": "20ms"}}
    (tmp_path / "spec.json").write_text(json.dumps(own))
    pod = Pod(tmp_path)
    try:
        said = pod.until_told("Serving Invalid")
        assert "out of bounds" in said
        save_file(whole, tmp_path / "beside")
        (tmp_path / "beside").replace(file)
        now = pod.until("/v1/model", lambda _: True)["epoch"]
        pod.until("/v1/model", lambda page: page["epoch"] > now + 1)
        pod.until_told("Serving  ")
    finally:
        pod.end()


def test_a_pod_that_waits_for_the_others_ends_when_it_is_told(tmp_path: Path) -> None:
    pod = Pod(tmp_path, least=2)
    try:
        end = time.monotonic() + 60
        while True:  # until others could meet it
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", pod.port), 1):
                break
            assert time.monotonic() < end
            time.sleep(0.05)
        pod.process.terminate()
        assert pod.process.wait(30) == 0, (
            "the handler is its own: a container's first process has none"
        )
    finally:
        pod.process.kill()
