"""`seedbed serve ROLE`: puts the parts of one role together on the adapters that its environment names.

What a role needs is imported when it runs, so that each one loads only its own packages. How a role lives
as a process is in `process`.
"""
# ruff: noqa: PLC0415 -- see above

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import typer

from seedbed.cli.connections import EVERYWHERE, bus_of, coordinator_of, store_of
from seedbed.cli.loops import fast_loop
from seedbed.cli.process import (
    END_SECONDS,
    Process,
    run_role,
)
from seedbed.cli.seed_role import serve_seeds, start_group
from seedbed.cli.settings import Settings
from seedbed.crds.errors import UnavailableError
from seedbed.runtime.seeds.torchrun import launched

if TYPE_CHECKING:
    from seedbed.cli.gateway import EventLogNotices
    from seedbed.operator.process import Options
    from seedbed.runtime.api.app import Pages
    from seedbed.runtime.api.checkpoints import Acting
    from seedbed.runtime.coordination.etcd import EtcdCoordinator
    from seedbed.runtime.store.sql import SqlStore

_log = logging.getLogger("seedbed.cli.serve")

app = typer.Typer(
    name="serve",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run one role as a server. It is configured by environment variables, SEEDBED_*.",
)


@app.command()
def operator() -> None:
    """Watch the kinds, decide, apply. Replicas elect a leader; all serve admission."""
    from uvloop import new_event_loop

    needed = ("nats_url", "etcd_endpoint", "gateway_url", "pod_namespace")
    run_role("operator", _operator, *needed, loop=new_event_loop)


@app.command()
def engine() -> None:
    """Own partitions of runs: journal every transition, hand out steps."""
    run_role("engine", _engine, "nats_url", "etcd_endpoint", "database_url", loop=fast_loop())


@app.command()
def gateway() -> None:
    """Serve the models of the models file in OpenAI's form."""
    run_role("gateway", _gateway, loop=fast_loop())


@app.command()
def api() -> None:
    """Serve results, step logs and feature flags over HTTP."""
    run_role("api", _api, "etcd_endpoint", "database_url")


@app.command()
def worker() -> None:
    """Execute the steps of one Pool."""
    needed = ("nats_url", "etcd_endpoint", "gateway_url", "namespace", "pool")
    run_role("worker", _worker, *needed, loop=fast_loop())


@app.command()
def seeds() -> None:
    """Serve the model of one SeedLayer and train its seeds."""
    needed = ("nats_url", "etcd_endpoint", "namespace", "seed_layer", "seed_checkpoints")
    if os.environ.get("SEEDBED_SEED_GROUP") and not launched():
        raise typer.Exit(start_group(*needed))
    run_role("seeds", serve_seeds, *needed, loop=fast_loop())


async def _operator(process: Process) -> None:
    from seedbed.operator.process import run_operator

    async with AsyncExitStack() as stack:
        bus = await bus_of(process, stack, "operator")
        coordinator = await coordinator_of(process, stack)
        options = _operator_options(process.settings)
        await run_operator(
            bus=bus, coordinator=coordinator, options=options, started=process.started
        )


def _operator_options(settings: Settings) -> Options:
    from seedbed.controllers.plan import Defaults
    from seedbed.operator.certificate_keeper import Place
    from seedbed.operator.process import Options, worker_environment

    servers = {
        "SEEDBED_NATS_URL": settings.nats_url,
        "SEEDBED_ETCD_ENDPOINT": settings.etcd_endpoint,
        "SEEDBED_GATEWAY_URL": settings.gateway_url,
        "SEEDBED_LOG_LEVEL": settings.log_level,
    }
    defaults = Defaults(
        image=settings.worker_image,
        image_pull_policy=settings.worker_image_pull_policy,
        environment=worker_environment(servers),
        seeds_image=settings.seeds_image,
    )
    webhook = Place(
        settings.pod_namespace,
        settings.webhook_service,
        settings.webhook_secret,
        settings.webhook_configuration,
        settings.webhook_certificates,
    )
    return Options(
        settings.holder,
        defaults,
        settings.lease_seconds,
        webhook if settings.webhook_enabled else None,
        settings.webhook_port,
    )


async def _engine(process: Process) -> None:
    from seedbed.runtime.store.plans import SqlPlans
    from seedbed.runtime.workflow.checkpoint.opening import vault
    from seedbed.runtime.workflow.engine import Engine
    from seedbed.runtime.workflow.plan_sources import Allowed

    settings = process.settings
    async with AsyncExitStack() as stack:
        store = await store_of(process, stack)
        checkpoints = vault(store, settings.checkpoint_keys, settings.checkpoint_url)
        bus = await bus_of(process, stack, "engine")
        try:
            await bus.events.prepare()
        except UnavailableError as error:
            # Runs do not need it: whoever follows them reads their journals.
            _log.warning("the event log cannot be made: %s", error)
        coordinator = await coordinator_of(process, stack)
        process.started()
        await Engine(
            store=store,
            bus=bus,
            coordinator=coordinator,
            holder=settings.holder,
            lease_ttl=settings.lease_seconds,
            plans=SqlPlans(store),
            allowed=Allowed(settings.plan_hosts, settings.plan_folder),
            vault=checkpoints,
            run_retention=settings.run_retention,
        ).run()


async def _gateway(process: Process) -> None:
    from prometheus_client import REGISTRY

    from seedbed.cli.gateway import EventLogNotices, Replica, identities, serving_models
    from seedbed.runtime.llm.models import load

    settings = process.settings
    models = load(settings.models)
    async with AsyncExitStack() as stack:
        replica = None
        if settings.database_url and settings.etcd_endpoint:
            store, coordinator = (
                await store_of(process, stack),
                await coordinator_of(process, stack),
            )
            replica = Replica(settings.holder, store, coordinator, settings.lease_seconds)
        identify = await stack.enter_async_context(
            identities(settings.identity, settings.service_account)
        )
        notices = EventLogNotices()
        await stack.enter_async_context(
            serving_models(
                models,
                EVERYWHERE,
                settings.port,
                replica=replica,
                identify=identify,
                tell=notices,
                bus=lambda: notices.bus,
                registry=REGISTRY,
            )
        )
        process.started()
        # Answers do not depend on NATS, which may come later or never.
        async with asyncio.TaskGroup() as tasks:
            reaching = tasks.create_task(_reached(process, stack, notices))
            await process.stopping.wait()
            reaching.cancel()


async def _reached(process: Process, stack: AsyncExitStack, notices: EventLogNotices) -> None:
    """Give the notices their bus once it is there."""
    from seedbed.runtime.bus.nats import NatsBus

    settings = process.settings
    events = settings.events.settings(governs=False)
    while settings.nats_url and notices.bus is None:
        try:
            bus = await NatsBus.open(settings.nats_url, name="gateway", wait=10.0, events=events)
        except UnavailableError as error:
            _log.warning("notices stay in the log: %s", error)
        else:
            stack.push_async_callback(bus.close)
            notices.bus = bus


async def _api(process: Process) -> None:
    from seedbed.runtime.api.access import kubernetes_access
    from seedbed.runtime.api.app import serve
    from seedbed.runtime.api.checkpoints import Acting
    from seedbed.runtime.api.flags import LiveFlags
    from seedbed.runtime.api.inbox import InboxPages
    from seedbed.runtime.api.objects import kubernetes_workflows
    from seedbed.runtime.workflow.history import StoredHistory
    from seedbed.runtime.workflow.step_items import StepItems

    flags = LiveFlags()
    process.waiting["the flags"] = lambda: not flags.loaded
    async with AsyncExitStack() as stack:
        store = await store_of(process, stack)
        bus = await bus_of(process, stack, "api") if process.settings.nats_url else None
        # What the store tells can be read also while NATS is away.
        process.waiting.pop("NATS", None)
        workflows = await stack.enter_async_context(kubernetes_workflows())
        acting = Acting(bus, workflows) if bus else None
        coordinator = await coordinator_of(process, stack)
        pages = await _pages_of_store(store, acting, coordinator, process.settings.gateway_url)
        if bus:
            pages.append(InboxPages(store, bus))
        await serve(
            store=store,
            history=StoredHistory(store),
            coordinator=coordinator,
            access=await stack.enter_async_context(kubernetes_access()),
            host=EVERYWHERE,
            port=process.settings.port,
            flags=flags,
            events=bus.events if bus else None,
            items=StepItems(store, bus),
            more=pages,
            started=lambda _: process.started(),
        )


async def _pages_of_store(
    store: SqlStore, acting: Acting | None, coordinator: EtcdCoordinator, gateway_url: str
) -> list[Pages]:
    """The pages of the API that tell what the store keeps."""
    from seedbed.runtime.api.batches import BatchPages
    from seedbed.runtime.api.cache import CachePages
    from seedbed.runtime.api.checkpoints import CheckpointPages
    from seedbed.runtime.api.costs import CostPages
    from seedbed.runtime.api.goals import GoalPages
    from seedbed.runtime.api.plans import PlanPages
    from seedbed.runtime.store.answers import SqlAnswers
    from seedbed.runtime.store.batches import SqlBatches
    from seedbed.runtime.store.checkpoints import SqlCheckpoints
    from seedbed.runtime.store.goals import SqlGoals
    from seedbed.runtime.store.outcomes import SqlOutcomes
    from seedbed.runtime.store.plans import SqlPlans
    from seedbed.runtime.store.sql_ledger import SqlLedger

    return [
        PlanPages(SqlPlans(store)),
        CheckpointPages(store, SqlCheckpoints(store), acting),
        GoalPages(SqlGoals(store), gateway_url),
        CostPages(SqlLedger(store), SqlOutcomes(store)),
        CachePages(await SqlAnswers.open(store), coordinator),
        BatchPages(SqlBatches(store)),
    ]


async def _worker(process: Process) -> None:
    from seedbed.runtime.worker.serving import serve_workers

    settings = process.settings
    process.drain = settings.drain + END_SECONDS
    async with AsyncExitStack() as stack:
        bus = await bus_of(process, stack, f"worker {settings.namespace}/{settings.pool}")
        coordinator = await coordinator_of(process, stack)
        # The agents' libraries take seconds: they are loaded beside the event loop, before any step.
        await asyncio.to_thread(_load_agents)
        process.started()
        await serve_workers(
            bus=bus,
            coordinator=coordinator,
            gateway_url=settings.gateway_url,
            namespace=settings.namespace,
            pool=settings.pool,
            count=settings.workers,
            concurrency=settings.concurrency,
            adapter=settings.adapter,
            drain=settings.drain,
            node=settings.holder,
            stopping=process.stopping,
        )


def _load_agents() -> None:
    # An image without them is right for Pools that only execute entry points.
    with suppress(ModuleNotFoundError):
        import seedbed.runtime.agents.host  # noqa: F401
