"""The model service as a role: budgets from the store and the live settings, callers from Kubernetes."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry

from seedbed.crds.errors import RetryableError, SeedbedError
from seedbed.runtime.api.access import (
    ACCOUNT,
    Access,
    Action,
    Caller,
    ForbiddenError,
    UnauthenticatedError,
    kubernetes_access,
)
from seedbed.runtime.api.flags import LiveFlags
from seedbed.runtime.bus.events import Event, Priority
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.batch.offline.lane import OfflineLane
from seedbed.runtime.llm.cache.cached import cached
from seedbed.runtime.llm.cache.stage import CacheStage, Flagged, no_flags
from seedbed.runtime.llm.funded import funded
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import (
    Identify,
    NotAllowedError,
    NotKnownError,
    Reviewed,
    anybody,
    reviewed,
)
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.notices import Notice, Tell
from seedbed.runtime.llm.programs import Programs
from seedbed.runtime.llm.service import serving
from seedbed.runtime.store.answers import SqlAnswers
from seedbed.runtime.store.outcomes import SqlOutcomes
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger

log = logging.getLogger(__name__)

_AGAIN = 1.0
"""Seconds until the live settings are read again, where they could not be."""

AUDIENCE = "seedbed-gateway"
"""Tokens of workers are made for the model service alone; others are the API server's own."""


@dataclass(frozen=True, slots=True)
class KubernetesReview:
    """A `Review` by the API server. Who may create Workflows in a namespace may spend its money."""

    access: Access

    async def caller(self, token: str) -> Caller:
        """See `Review`."""
        try:
            return await self.access.caller(token)
        except UnauthenticatedError as error:
            raise NotKnownError(error.message) from error

    async def may_spend(self, caller: Reviewed, namespace: str) -> None:
        """See `Review`."""
        assert isinstance(caller, Caller)
        try:
            await self.access.require(caller, Action("create", "workflows", namespace))
        except ForbiddenError as error:
            raise NotAllowedError(error.message) from error


@asynccontextmanager
async def identities(kind: str, account: Path = ACCOUNT) -> AsyncIterator[Identify]:
    """How callers are known: `kubernetes`, or `headers` where whoever can call owns everything.

    `account` is the folder with the service account's `token` and `ca.crt`.
    """
    if kind == "headers":
        yield anybody
        return
    async with kubernetes_access(account=account, audience=AUDIENCE) as access:
        yield reviewed(KubernetesReview(access))


class EventLogNotices:
    """Puts notices into the event log; without a bus, or without room there, they are only logged."""

    def __init__(self, bus: Bus | None = None) -> None:
        self.bus = bus

    def __call__(self, notice: Notice) -> None:
        """Put one."""
        if self.bus is None:
            return
        payload = orjson.dumps({"of": notice.of, **notice.facts})
        priority: Priority = "critical" if notice.bad else "normal"
        try:
            self.bus.events.put(Event(notice.of, notice.kind, time.time(), payload, priority))
        except SeedbedError as error:
            log.warning("a notice is not in the event log: %s", error)


@asynccontextmanager
async def flags_of(coordinator: Coordinator) -> AsyncIterator[Flagged]:
    """Decides FeatureFlags as they are now, while the context is open."""
    flags = LiveFlags()

    def flagged(namespace: str, name: str, subject: str) -> bool | None:
        decision = flags.decide(namespace, name, subject)
        return None if decision is None else decision.value

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_follow(flags, coordinator))
        try:
            yield flagged
        finally:
            task.cancel()


async def _follow(flags: LiveFlags, coordinator: Coordinator) -> None:
    while True:
        try:
            await flags.follow(coordinator)
        except RetryableError as error:
            log.warning("flags stay as they were: %s", error)
        await asyncio.sleep(_AGAIN)


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of the model service, with what it shares with the others.

    Attributes:
        holder: who it is.
        store: keeps money, outcomes, answers and batches.
        coordinator: has the live settings.
        lease: seconds after which another one takes over the offline work of one that died.
    """

    holder: str
    store: SqlStore
    coordinator: Coordinator
    lease: float = 10.0


@asynccontextmanager
async def serving_models(
    models: Models,
    host: str,
    port: int,
    *,
    replica: Replica | None = None,
    identify: Identify = anybody,
    tell: Tell | None = None,
    bus: Callable[[], Bus | None] = lambda: None,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[int]:
    """The model service while the context is open; gives its port.

    Args:
        models: what it serves.
        host: where it listens.
        port: likewise; any free one where it is 0.
        replica: with what it has budgets, Agents, offline work and answers that outlive it.
        identify: says who calls.
        tell: hears its notices.
        bus: leads to the workers that answer for Agents, once it is there.
        registry: takes in its metrics, which then are not shown on the service's own port.
    """
    gateway = Gateway(models)
    if replica is not None:
        gateway.programs = Programs(bus, replica.coordinator, gateway.now)
    if tell is not None:
        gateway.notices.also(tell)
    async with AsyncExitStack() as stack:
        if registry is not None:
            registry.register(gateway.metrics.registry)
            stack.callback(registry.unregister, gateway.metrics.registry)
        if replica is not None:
            await stack.enter_async_context(_funded(gateway, replica))
        cache = await _cache(gateway, replica, stack)
        lane = _lane(gateway, replica, cache, identify)
        service = serving(
            models,
            host,
            port,
            gateway=gateway,
            identify=identify,
            routes=lane.routes() if lane is not None else (),
            metrics=registry is None,
        )
        bound = await stack.enter_async_context(service)
        if lane is not None:
            await stack.enter_async_context(lane.running())
        yield bound


@asynccontextmanager
async def _funded(gateway: Gateway, replica: Replica) -> AsyncIterator[None]:
    """The gateway spends from budgets, and learns from outcomes, while the context is open."""
    # A replica that starts anew is another holder: what the old one held ends by itself.
    name = f"{replica.holder}-{secrets.token_hex(4)}"
    async with (
        funded(gateway, SqlLedger(replica.store), replica.coordinator, name),
        gateway.learning.following(SqlOutcomes(replica.store)),
    ):
        yield


async def _cache(
    gateway: Gateway, replica: Replica | None, stack: AsyncExitStack
) -> CacheStage | None:
    """The stage that keeps answers, where the models file asks for one."""
    settings = gateway.models.cache
    if settings.mode == "off":
        return None
    if replica is None:
        return await stack.enter_async_context(cached(gateway))
    flagged: Flagged = no_flags
    if settings.flag:
        flagged = await stack.enter_async_context(flags_of(replica.coordinator))
    answers = await SqlAnswers.open(replica.store)
    return await stack.enter_async_context(
        cached(gateway, answers, replica.coordinator, flagged=flagged)
    )


def _lane(
    gateway: Gateway, replica: Replica | None, cache: CacheStage | None, identify: Identify
) -> OfflineLane | None:
    """The lane for offline work, where the models file asks for one."""
    if replica is None or not gateway.models.offline.enabled:
        return None
    return OfflineLane(
        gateway,
        replica.store,
        replica.coordinator,
        cache=cache,
        holder=replica.holder,
        identify=identify,
        lease=replica.lease,
    )
