"""Pods of SeedLayers for tests: a small model, a task, and pods in this process or in one of their own."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import torch
from torch import Tensor, nn

from seedbed.crds.seed_features import FEATURES
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.crds.seed_messages import seed_setting
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.seeds.reporting import Pod
from seedbed.runtime.seeds.server import SeedServer

HERE = "tests.seed_pods"
FLAGS = tuple(name.replace("_", "-") for name in FEATURES)
SPEC: dict[str, Any] = {
    "model": {"entry": f"{HERE}:model"},
    "layers": ["body.*"],
    "seedsPerLayer": 4,
    "blueprints": [{"type": "lowRank", "rank": 4}],
    "data": {"entry": f"{HERE}:data"},
    "lifecycle": {
        "patience": 1,
        "minImprovement": 0.001,
        "accuracyTarget": 1.0,
        "maxActiveSeeds": 2,
    },
    "grafting": {"steps": 4},
}


class Small(nn.Module):
    """Two layers that carry seeds, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of four classes."""
        found: Tensor = self.head(torch.relu(self.body(x)))
        return found


def model() -> nn.Module:
    """Entry point: always the same numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Small()


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entry point: which of four inputs is the largest."""
    inputs = torch.randn(160, 8, generator=torch.Generator().manual_seed(2))
    targets = inputs[:, :4].argmax(dim=1)
    return inputs[:128], targets[:128], inputs[128:], targets[128:]


def spec_of(**changes: Any) -> SeedLayerSpec:
    """A spec with fields of its own."""
    return SeedLayerSpec.model_validate({**SPEC, **changes})


@asynccontextmanager
async def settings(
    spec: SeedLayerSpec, flags: tuple[str, ...] = FLAGS
) -> AsyncIterator[MemoryCoordinator]:
    """Live settings with a SeedLayer and FeatureFlags that are on."""
    coordinator = MemoryCoordinator()
    value = spec.model_dump_json(by_alias=True).encode()
    await coordinator.put(seed_setting("team", "small"), value)
    for flag in flags:
        await coordinator.put(f"flags/team/{flag}", b"{}")
    try:
        yield coordinator
    finally:
        await coordinator.close()


@asynccontextmanager
async def pod(
    folder: Path,
    coordinator: MemoryCoordinator,
    bus: MemoryBus,
    *,
    number: int = 0,
    environment: Mapping[str, str] | None = None,
    token: str = "",
) -> AsyncIterator[tuple[SeedServer, str]]:
    """A pod in this process, with the address of its pages; it ends with the context."""
    server = SeedServer(
        pod=Pod("team", "small", "u1", f"small-seeds-{number}"),
        bus=bus,
        coordinator=coordinator,
        checkpoints=str(folder),
        environment=environment or {},
        drain=10,
        token=token,
    )
    stopping = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(server.run("127.0.0.1", 0, stopping, port.set_result))
    try:
        yield server, f"http://127.0.0.1:{await port}"
    finally:
        stopping.set()
        await running


@asynccontextmanager
async def asked_pod(
    folder: Path, spec: SeedLayerSpec, *, flags: tuple[str, ...] = FLAGS, token: str = ""
) -> AsyncIterator[tuple[SeedServer, str, aiohttp.ClientSession]]:
    """A pod with its own settings and bus, the address of its pages, and a session to ask them."""
    bus = MemoryBus()
    try:
        async with (
            settings(spec, flags) as coordinator,
            pod(folder, coordinator, bus, token=token) as (server, url),
            aiohttp.ClientSession() as session,
        ):
            yield server, url, session
    finally:
        await bus.close()


async def until(holds: Callable[[], Any]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


class PodProcess:
    """A pod in a process of its own, forked from one that has torch already."""

    def __init__(self, folder: Path, spec: SeedLayerSpec) -> None:
        context = multiprocessing.get_context("forkserver")
        # The server of the forks looks for modules only where they are installed.
        context.set_forkserver_preload(["seedbed.runtime.seeds.server"])
        ours, theirs = context.Pipe()
        text = spec.model_dump_json(by_alias=True)
        self._process = context.Process(
            target=_serve, args=(str(folder), text, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        assert ours.poll(60), "the pod did not start"
        self._url = f"http://127.0.0.1:{ours.recv()}"

    def get(self, path: str) -> dict[str, Any]:
        """A page; {} while the model is not there yet."""
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            return {}

    def until(self, path: str, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Read a page until something holds of it."""
        end = time.monotonic() + 30
        while not ((found := self.get(path)) and holds(found)):
            assert time.monotonic() < end, f"{path} says {found}"
            time.sleep(0.03)
        return found

    def kill(self) -> None:
        """End it at once, with nothing saved."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(30)

    def terminate(self) -> int | None:
        """Ask it to end, as Kubernetes does; gives the exit code."""
        self._process.terminate()
        self._process.join(30)
        return self._process.exitcode


def _serve(folder: str, spec: str, told: Connection) -> None:
    torch.set_num_threads(1)
    asyncio.run(_until_terminated(Path(folder), SeedLayerSpec.model_validate_json(spec), told))


async def _until_terminated(folder: Path, spec: SeedLayerSpec, told: Connection) -> None:
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    async with settings(spec) as coordinator, pod(folder, coordinator, MemoryBus()) as (_, url):
        told.send(int(url.rpartition(":")[2]))
        await terminated.wait()
