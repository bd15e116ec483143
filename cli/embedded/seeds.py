"""The pod of a SeedLayer, in the process of `seedbed run`. Needs the extra `kernels`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from seedbed.cli.embedded.kubelet import Replica
from seedbed.crds.base import seconds
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.seeds.reporting import Pod
from seedbed.runtime.seeds.server import SeedServer

_LOOPBACK = "127.0.0.1"
_DRAIN = 4.0
"""Seconds to save: `seedbed run` waits no longer for what it has started."""


async def serve(
    replica: Replica,
    bus: Bus,
    coordinator: Coordinator,
    folder: Path,
    note: Callable[[str], None],
) -> None:
    """Serve until the replica is to stop.

    Args:
        replica: the pod, and the variables that the operator gave it.
        bus: to the operator.
        coordinator: for the live settings.
        folder: where checkpoints stand, unless the SeedLayer names a URL.
        note: tells the user where the model answers.
    """
    env = replica.env
    wanted = env["SEEDBED_SEED_CHECKPOINTS"]
    pod = Pod(
        env["SEEDBED_NAMESPACE"],
        env["SEEDBED_SEED_LAYER"],
        env["SEEDBED_SEED_LAYER_UID"],
        replica.name,
    )
    server = SeedServer(
        pod=pod,
        bus=bus,
        coordinator=coordinator,
        checkpoints=wanted if "://" in wanted else str(folder),
        environment={**os.environ, **env},
        drain=min(seconds(env["SEEDBED_DRAIN"]), _DRAIN),
    )
    await server.run(
        _LOOPBACK,
        0,
        replica.stop,
        lambda port: note(f"{pod.layer} answers at http://{_LOOPBACK}:{port}"),
    )
