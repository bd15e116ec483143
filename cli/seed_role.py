"""`seedbed serve seeds`: one process, or a group of them that torchrun holds together.

What it needs is imported when it runs, so that an image without torch says what it lacks.
"""
# ruff: noqa: PLC0415 -- see above

from __future__ import annotations

import logging
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from seedbed.cli.connections import EVERYWHERE, bus_of, coordinator_of
from seedbed.cli.process import END_SECONDS, FAILED, MISUSED, Process
from seedbed.cli.settings import Settings
from seedbed.crds.errors import InvalidError, SeedbedError
from seedbed.runtime.seeds.torchrun import local_rank

if TYPE_CHECKING:
    from seedbed.runtime.bus.nats import NatsBus
    from seedbed.runtime.seeds.group import Alone, Group
    from seedbed.runtime.seeds.reporting import Pod

_log = logging.getLogger("seedbed.cli.serve")


def start_group(*needed: str) -> int:
    """Start this command again as the processes of a group, and stay beside them; gives the exit status."""
    from seedbed.runtime.telemetry.logs import configure

    configure("seeds")
    try:
        settings = Settings.read(os.environ, *needed, "seed_rendezvous", "seed_address")
        from seedbed.runtime.seeds.launch import Launch, launch, this_command

        wanted = Launch(
            name=settings.seed_layer_uid or settings.seed_layer,
            rendezvous=settings.seed_rendezvous,
            address=settings.seed_address,
            processes=settings.seed_processes,
            least=settings.seed_least_pods,
            drain=settings.drain,
        )
        return launch(wanted, this_command())
    except InvalidError as error:
        _log.error("%s", error)
        return MISUSED
    except SeedbedError as error:
        _log.error("%s", error, extra={"code": error.code})
        return FAILED


async def serve_seeds(process: Process) -> None:
    """One process of the pod of a SeedLayer."""
    from prometheus_client import REGISTRY

    try:
        from seedbed.runtime.seeds.group import Group
        from seedbed.runtime.seeds.reporting import Pod
        from seedbed.runtime.seeds.server import SeedServer
        from seedbed.runtime.seeds.threads import aside
    except ModuleNotFoundError as error:
        raise InvalidError("image", f"lacks {error.name}: SeedLayers need `seeds.image`") from error

    settings = process.settings
    group: Alone | None = None
    async with AsyncExitStack() as stack:
        bus = await bus_of(process, stack, f"seeds {settings.namespace}/{settings.seed_layer}")
        pod = Pod(settings.namespace, settings.seed_layer, settings.seed_layer_uid, settings.holder)
        if settings.seed_group:
            group = await aside(Group, settings.seed_group)
        # Until now there was nothing to save.
        process.drain = settings.drain + END_SECONDS / 2
        if isinstance(group, Group) and not group.leads:
            await _following(process, group, pod, bus)
            return
        server = SeedServer(
            pod=pod,
            bus=bus,
            group=group,
            coordinator=await coordinator_of(process, stack),
            checkpoints=settings.seed_checkpoints,
            environment=os.environ,
            drain=settings.drain,
            token=settings.seed_token,
            registry=REGISTRY,
        )
        process.waiting["the model"] = lambda: server.waiting
        # Answers do not depend on NATS: a pod goes on serving while it is away.
        process.waiting.pop("NATS", None)
        await server.run(EVERYWHERE, settings.port, process.stopping, lambda _: process.started())


async def _following(process: Process, group: Group, pod: Pod, bus: NatsBus) -> None:
    from prometheus_client import REGISTRY

    from seedbed.runtime.seeds.follower import SeedFollower

    settings = process.settings
    follower = SeedFollower(
        group,
        pod=pod,
        bus=bus,
        checkpoints=settings.seed_checkpoints,
        token=settings.seed_token,
        serves=local_rank() == 0,
        drain=settings.drain,
        registry=REGISTRY,
    )
    process.waiting["the model"] = lambda: follower.waiting
    process.waiting.pop("NATS", None)
    await follower.run(EVERYWHERE, settings.port, process.stopping, lambda _: process.started())
