"""A pod of a SeedLayer whose two processes train together, for tests: `python -m tests.seed_group_pod`.

`spec.json` in its folder changes its spec; `told` there says why its phase is what it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import torch

from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.seeds import server as server_module
from seedbed.runtime.seeds.follower import SeedFollower
from seedbed.runtime.seeds.group import Group
from seedbed.runtime.seeds.launch import Launch, launch, this_command
from seedbed.runtime.seeds.reporting import Pod
from seedbed.runtime.seeds.server import SeedServer
from seedbed.runtime.seeds.torchrun import launched
from tests.seed_pods import settings, spec_of

SLOW = {
    "training": {"interval": "50ms", "learningRate": 0.03},
    "checkpoint": {"interval": "1ms", "keep": 3},
}


async def serve(folder: Path) -> None:
    """One process of the group, until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    (folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    group = await asyncio.to_thread(Group, "sharded")
    pod, bus = Pod("team", "small", "u1", "small-seeds-0"), MemoryBus()
    if group.leads:
        changed = folder / "spec.json"
        own = json.loads(changed.read_text()) if changed.exists() else {}
        server_module.RETRY = 0.2
        async with settings(spec_of(**SLOW | own)) as coordinator:
            server = SeedServer(
                pod=pod, bus=bus, coordinator=coordinator, checkpoints=str(folder),
                environment={}, drain=10, group=group,
            )  # fmt: skip
            telling = asyncio.ensure_future(tell(server, folder / "told"))
            await server.run("127.0.0.1", 0, stopping, lambda port: write(folder / "port", port))
            telling.cancel()
        return
    follower = SeedFollower(
        group, pod=pod, bus=bus, checkpoints=str(folder), serves=False, drain=20
    )
    await follower.run("127.0.0.1", 0, stopping, lambda _: None)


async def tell(server: SeedServer, path: Path) -> None:
    """Keep a file with the reason and the message of the pod's phase, until cancelled."""
    while True:
        progress = server.progress
        write(path, f"{progress.phase} {progress.reason} {progress.message}")
        await asyncio.sleep(0.05)


def write(path: Path, value: object) -> None:
    """A file that is whole or not there."""
    beside = path.with_suffix(".new")
    beside.write_text(str(value))
    beside.replace(path)


def main() -> int:
    """The pod, or one of its processes."""
    folder = Path(sys.argv[1])
    if launched():
        torch.set_num_threads(1)
        asyncio.run(serve(folder))
        return 0
    meeting = f"127.0.0.1:{sys.argv[2]}"
    least = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    wanted = Launch("u1", meeting, "127.0.0.1", processes=2, least=least, drain=30)
    return launch(wanted, this_command())


if __name__ == "__main__":
    sys.exit(main())
