"""Puts the parts together in one process: reconciler, engine, workers and, for agents, a model service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from seedbed.cli.embedded.cluster import MemoryCluster, key_of
from seedbed.cli.embedded.kubelet import Kubelet, Replica, Start
from seedbed.cli.embedded.manifests import Manifests
from seedbed.cli.embedded.state import StateFolder
from seedbed.cli.output import at
from seedbed.cli.progress import Display, ended
from seedbed.controllers.plan import Defaults, Raw
from seedbed.crds.base import seconds
from seedbed.crds.errors import SeedbedError, TerminalError, UnavailableError
from seedbed.crds.kinds import BY_NAME
from seedbed.operator.reconciler import Reconciler
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.llm.models import Models
from seedbed.runtime.store.checkpoints import SqlCheckpoints
from seedbed.runtime.store.plans import PlanRow, SqlPlans
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.worker.serving import serve_workers
from seedbed.runtime.workflow.checkpoint.keys import KeyRing
from seedbed.runtime.workflow.checkpoint.vault import Vault
from seedbed.runtime.workflow.engine import Engine
from seedbed.runtime.workflow.history import StoredHistory
from seedbed.runtime.workflow.plan_sources import Allowed

State = Literal["done", "waiting", "hopeless"]

_TOKENS_A_START = 1 << 32
_GRACE = 2.0
# Libraries that write to the screen by themselves; what they say goes to the log instead.
_TALKING = ("dspy", "LiteLLM")
_HOLDER = "embedded"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the parts share."""

    cluster: MemoryCluster
    bus: MemoryBus
    coordinator: MemoryCoordinator
    store: SqlStore
    keys: Path
    seeds: Path


async def play(
    wanted: Manifests, state: StateFolder, models: Models, display: Display, limit: float
) -> tuple[MemoryCluster, Mapping[str, Any]]:
    """Run the objects until every Workflow has ended and everything else is ready, or cannot be.

    Returns:
        The cluster as it is then, and the results of the Workflows that succeeded, by name.

    Raises:
        UnavailableError: when it is not over within `limit` seconds.
    """
    saved = state.load()
    opened = int(saved["opened"]) + 1
    cluster = MemoryCluster(saved["objects"])
    store = SqlStore.open(state.database)
    # Tokens of this start are larger than all of earlier ones, as the store has seen those.
    coordinator = MemoryCoordinator(after=opened * _TOKENS_A_START)
    parts = Parts(
        cluster,
        MemoryBus(),
        coordinator,
        store,
        state.path / "checkpoint.keys",
        state.path / "seeds",
    )
    try:
        await store.migrate()
        for plan in wanted.plans:
            row = PlanRow(plan.namespace, plan.digest, time.time(), 0, len(plan.data))
            await SqlPlans(store).put(row, plan.data)
        await _apply_all(cluster, wanted.objects)
        state.save(cluster, opened)
        changed = _shown_changes(cluster, display)
        async with _everything(parts, models, display, lambda: state.saving(cluster, opened)):
            try:
                async with asyncio.timeout(limit):
                    await _until_over(cluster, changed)
            except TimeoutError as error:
                late = f"not over within {limit:g} s; the state is in {state.path}"
                raise UnavailableError("\n".join([late, *_open_ends(cluster)])) from error
        return cluster, await _results(parts)
    finally:
        await parts.bus.close()
        await store.close()


def state_of(obj: Raw) -> State:
    """Whether an object is as it should be, may become so, or cannot without other manifests."""
    conditions = {one["type"]: one for one in at(obj, ".status.conditions") or ()}
    if at(obj, ".status.observedGeneration") != obj["metadata"]["generation"]:
        return "waiting"
    ready = conditions.get("Ready", {})
    # A SeedLayer whose seeds are trained is there and goes on.
    going = obj["kind"] == "SeedLayer" and conditions["Progressing"]["status"] == "True"
    if ended(obj) if runs(obj) else ready.get("status") == "True" and not going:
        return "done"
    stalled = conditions.get("Stalled", {}).get("status") == "True"
    missing = str(ready.get("reason", "")).endswith("NotFound")
    suspended = at(obj, ".status.phase") == "Suspended"
    return "hopeless" if stalled or missing or suspended else "waiting"


def runs(obj: Raw) -> bool:
    """Whether an object is a Workflow that runs: a template does not."""
    return obj["kind"] == "Workflow" and not at(obj, ".spec.template")


def succeeded(obj: Raw) -> bool:
    """Whether an object is as the user wanted it."""
    if runs(obj):
        return ended(obj) and at(obj, ".status.phase") == "Succeeded"
    return state_of(obj) == "done"


def users_objects(cluster: MemoryCluster) -> list[Raw]:
    """The objects of Seedbed's own kinds."""
    return [obj for obj in cluster.listed() if obj["kind"] in BY_NAME]


async def _apply_all(cluster: MemoryCluster, objects: Sequence[Raw]) -> None:
    """Make the cluster hold these objects and no others of the user."""
    wanted = {key_of(obj) for obj in objects}
    for obj in (*users_objects(cluster), *cluster.listed("ConfigMap")):
        if key_of(obj) not in wanted:
            await cluster.delete(key_of(obj), obj["metadata"]["uid"])
    for obj in objects:
        await cluster.apply(obj)


@asynccontextmanager
async def _everything(
    parts: Parts, models: Models, display: Display, saving: Callable[[], Any]
) -> AsyncIterator[None]:
    """Everything runs while the context is open; what fails in one part ends all."""
    async with AsyncExitStack() as stack:
        gateway = ""
        if parts.cluster.listed("Agent"):
            display.note(f"starting the model {models.first}")
            gateway = await stack.enter_async_context(_model_service(parts, models))
        lease = await stack.enter_async_context(parts.coordinator.lease())
        ownership = await parts.coordinator.campaign("operator", _HOLDER, lease)
        reconciler = Reconciler(parts.cluster, parts.bus, parts.coordinator, ownership, Defaults())
        parts.cluster.listen(lambda how, obj: reconciler.notice(obj, deleted=how == "DELETED"))
        engine = Engine(
            store=parts.store,
            bus=parts.bus,
            coordinator=parts.coordinator,
            holder=_HOLDER,
            plans=SqlPlans(parts.store),
            allowed=Allowed(hosts=None),
            vault=Vault(SqlCheckpoints(parts.store), KeyRing.at(parts.keys)),
        )
        serve_seeds = await _seed_server(parts, display)

        async def start(replica: Replica) -> None:
            if replica.role == "seeds":
                await serve_seeds(replica)
            else:
                await _work(parts, gateway, replica)

        kubelet = Kubelet(parts.cluster, start)
        try:
            async with asyncio.TaskGroup() as group:
                deciding, *others = [
                    group.create_task(one)
                    for one in (reconciler.run(), engine.run(), kubelet.run(), saving())
                ]
                yield
                # First, so that the objects stay as they are while the workers leave.
                deciding.cancel()
                await kubelet.drain()
                for task in others:
                    task.cancel()
        except* SeedbedError as errors:
            raise _first(errors) from None


@asynccontextmanager
async def _model_service(parts: Parts, models: Models) -> AsyncIterator[str]:
    """The model service on a loopback port; gives its address. Only agents need what it imports."""
    gateway = await asyncio.to_thread(import_module, "seedbed.cli.gateway")
    # Workers import the agents' libraries in the event loop: it takes seconds, so better here.
    importing = asyncio.create_task(asyncio.to_thread(import_module, "seedbed.runtime.agents.host"))
    replica = gateway.Replica(_HOLDER, parts.store, parts.coordinator)
    async with gateway.serving_models(
        models, "127.0.0.1", 0, replica=replica, bus=lambda: parts.bus
    ) as port:
        await importing
        for name in _TALKING:
            library = logging.getLogger(name)
            library.handlers.clear()
            library.propagate = True
        yield f"http://127.0.0.1:{port}"


async def _seed_server(parts: Parts, display: Display) -> Start:
    """What runs the pod of a SeedLayer. Only SeedLayers need what it imports."""
    if not parts.cluster.listed("SeedLayer"):
        return _no_seeds
    try:
        module = await asyncio.to_thread(import_module, "seedbed.cli.embedded.seeds")
    except ModuleNotFoundError as error:
        raise TerminalError(
            f"the package {error.name} is not installed, and a SeedLayer needs it: "
            "install seedbed with the extra `kernels`"
        ) from error

    async def serve(replica: Replica) -> None:
        await module.serve(replica, parts.bus, parts.coordinator, parts.seeds, display.note)

    return serve


async def _no_seeds(replica: Replica) -> None:
    raise TerminalError(f"{replica.name} came after the start: run the manifests again")


async def _work(parts: Parts, gateway: str, replica: Replica) -> None:
    env = replica.env
    await serve_workers(
        bus=parts.bus,
        coordinator=parts.coordinator,
        gateway_url=gateway,
        namespace=env["SEEDBED_NAMESPACE"],
        pool=env["SEEDBED_POOL"],
        count=int(env["SEEDBED_WORKERS"]),
        concurrency=int(env["SEEDBED_CONCURRENCY"]),
        adapter=env["SEEDBED_ADAPTER"],
        drain=seconds(env["SEEDBED_DRAIN"]),
        node=replica.name,
        stopping=replica.stop,
    )


def _shown_changes(cluster: MemoryCluster, display: Display) -> asyncio.Event:
    """Show every Workflow that runs, now and after each change; the event is set after each change."""
    changed = asyncio.Event()
    told: dict[str, str] = {}

    def heard(_: str, obj: Raw) -> None:
        if runs(obj):
            display.workflow(obj)
        if (line := seeds_in_one_line(obj)) and told.get(obj["metadata"]["name"]) != line:
            told[obj["metadata"]["name"]] = line
            display.note(line)
        changed.set()

    cluster.listen(heard)
    return changed


def seeds_in_one_line(obj: Raw) -> str:
    """Where a SeedLayer stands; nothing for other objects, and for one that has no seeds yet."""
    status = obj.get("status") or {}
    if obj["kind"] != "SeedLayer" or not status.get("stages"):
        return ""
    parts = [f"epoch {status['epoch']}", status["stages"]]
    if "accuracy" in status:
        parts.append(f"accuracy {status['accuracy']}, {status['baseAccuracy']} without seeds")
    return f"{obj['metadata']['name']}: {' · '.join(parts)}"


async def _until_over(cluster: MemoryCluster, changed: asyncio.Event) -> None:
    while True:
        changed.clear()
        states = {state_of(obj) for obj in users_objects(cluster)}
        if states <= {"done"}:
            return
        try:
            # What cannot be yet may be on its way: nothing must change for a moment.
            async with asyncio.timeout(None if "waiting" in states else _GRACE):
                await changed.wait()
        except TimeoutError:
            return


def _open_ends(cluster: MemoryCluster) -> Iterator[str]:
    """What is not over yet, and what it waits for."""
    for obj in users_objects(cluster):
        if state_of(obj) != "done":
            ready = at(obj, '.status.conditions[?(@.type=="Ready")]') or {}
            said = filter(None, (ready.get("reason", "Pending"), ready.get("message")))
            yield ": ".join((f"{obj['kind']} {obj['metadata']['name']}", *said))


async def _results(parts: Parts) -> Mapping[str, Any]:
    """Results stand in the status where they are small, else in the store."""
    history = StoredHistory(parts.store)
    return {
        obj["metadata"]["name"]: await history.result(at(obj, ".status.runId"))
        for obj in parts.cluster.listed("Workflow")
        if runs(obj) and succeeded(obj)
    }


def _first(errors: BaseExceptionGroup[SeedbedError]) -> SeedbedError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
