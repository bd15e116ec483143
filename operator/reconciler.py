"""The loop that every kind goes through: observe, reconcile, execute.

Knows neither kopf nor a Kubernetes client: whoever watches a cluster calls `notice`, and `Cluster` takes
the writes. So the same loop runs in the operator and in `seedbed run`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from datetime import UTC, datetime

import orjson
from prometheus_client import CollectorRegistry

from seedbed.controllers.plan import CancelRun, Defaults, Key, Observed, Plan, Raw, Withdraw
from seedbed.controllers.pods import key_of
from seedbed.crds.addresses import PARTITIONS, SETTING_PREFIXES, engine_address
from seedbed.crds.engine_requests import ListActive
from seedbed.crds.errors import (
    ConflictError,
    FencedError,
    RetryableError,
    SeedbedError,
)
from seedbed.crds.run_ids import is_own
from seedbed.crds.seed_messages import SEEDS_TOPICS
from seedbed.crds.spending import (
    SPENDING_PREFIX,
    Spending,
    agent_account,
    workflow_account,
)
from seedbed.crds.wire import encode
from seedbed.operator.cache import Cache, version_of
from seedbed.operator.cluster import Cluster
from seedbed.operator.echoes import Echoes, own_doing
from seedbed.operator.executor import ENGINE_WAIT, Executor
from seedbed.operator.fencing import largest_token, status_token
from seedbed.operator.live_settings import OWNERS, LiveSettings
from seedbed.operator.metrics import Metrics
from seedbed.operator.queue import WorkQueue
from seedbed.operator.registration import REGISTRATIONS
from seedbed.operator.run_reports import PROGRESS_SECONDS, RunReports
from seedbed.operator.seed_reports import SeedReports
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Change, Coordinator, Ownership

log = logging.getLogger(__name__)

_SPENDERS = ("Agent", "Workflow")
WORKERS_PREFIX = "services/worker/"
ENGINES_PREFIX = "services/engine/"
ENGINE_SERVES_AFTER = 2.0
"""Seconds in which partitions have an owner again after an engine has come or gone."""
TERMINAL_RETRY = 60.0
CLEAN_UP_RETRY = 5.0


class Reconciler:
    """Brings what users want and what is there together, while this process leads.

    Args:
        resync: seconds between looks at every object, and comparisons of live settings and runs
            with the objects that exist.
        concurrency: keys in work at the same time.
    """

    def __init__(
        self,
        cluster: Cluster,
        bus: Bus,
        coordinator: Coordinator,
        ownership: Ownership,
        defaults: Defaults,
        *,
        metrics: Metrics | None = None,
        resync: float = 600.0,
        concurrency: int = 16,
    ) -> None:
        self.cache = Cache()
        self.queue: WorkQueue[Key] = WorkQueue()
        self._bus = bus
        self._coordinator = coordinator
        self._ownership = ownership
        self._defaults = defaults
        self._metrics = metrics or Metrics(CollectorRegistry())
        self._resync = resync
        self._concurrency = concurrency
        self._settings = LiveSettings(self.queue.add)
        self._spending: dict[str, Spending] = {}
        self._workers: dict[str, tuple[str, str]] = {}
        self._runs = RunReports(self.queue.add, self.queue.add_after)
        self._seeds = SeedReports(
            self.queue.add, lambda key: self.queue.add_after(key, PROGRESS_SECONDS)
        )
        self._echoes = Echoes(self.notice)
        self._executor = Executor(
            cluster,
            bus,
            coordinator,
            ownership,
            writing=self._echoes.writing,
            setting=self._settings.writing,
            changed=self._stored,
            summarised=self._runs.take,
        )

    async def settle_token(self) -> None:
        """Choose the statuses' fencing token by what the objects carry; call it once all are known.

        Raises:
            FencedError: another process leads.
        """
        seen = largest_token(obj for kind in REGISTRATIONS for obj in self.cache.objects(kind))
        self._executor.token = await status_token(self._coordinator, self._ownership, seen)

    def notice(self, obj: Raw, *, deleted: bool = False) -> None:
        """A watch has shown an object, or that it is gone."""
        if self._echoes.keep(obj, deleted=deleted):
            return
        if deleted:
            self._gone(key_of(obj), version_of(obj))
        else:
            self._look_at(self.cache.put(obj))

    def listed(self, before: Mapping[Key, int], listed: Container[Key]) -> None:
        """All has been listed: what a listing does not show is gone.

        Args:
            before: what `Cache.before_listing` gave.
            listed: every key that was shown.
        """
        for key, version in before.items():
            if key not in listed and self.cache.is_unlisted(key, version):
                self._gone(key)

    def rewound(self) -> None:
        """The API server has come back with an older state: nothing that was known counts any more."""
        for key in self.cache.rewound():
            self._executor.forget(key)

    def _gone(self, key: Key, version: int | None = None) -> None:
        self._executor.forget(key)
        self._look_at(self.cache.drop(key, version))

    def _look_at(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key)

    def _stored(self, obj: Raw) -> None:
        """The server's answer to an own write."""
        before = self.cache.get(key_of(obj))
        self._look_at(self.cache.put(obj) - own_doing(before, obj))

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            FencedError: another process leads.
        """
        async with (
            self._coordinator.watch("") as changes,
            self._bus.hear("runs.*") as summaries,
            self._bus.hear(SEEDS_TOPICS) as reports,
        ):
            for prefix in SETTING_PREFIXES:
                self._settings.load(await self._coordinator.settings(prefix))
            for name, value in (await self._coordinator.settings(SPENDING_PREFIX)).items():
                self._spent(name, value)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow_settings(changes))
                    tasks.create_task(self._runs.follow(summaries))
                    tasks.create_task(self._seeds.follow(reports))
                    tasks.create_task(self._look_again())
                    for _ in range(self._concurrency):
                        tasks.create_task(self._work())
            except* FencedError as group:
                raise group.exceptions[0] from None
            finally:
                self.queue.close()

    async def _follow_settings(self, changes: AsyncIterator[Change]) -> None:
        async for change in changes:
            self._setting_changed(change)

    def _setting_changed(self, change: Change) -> None:
        if change.key.startswith(WORKERS_PREFIX):
            self._worker_changed(change)
        elif change.key.startswith(ENGINES_PREFIX):
            self.queue.hurry(ENGINE_SERVES_AFTER)
        elif change.key.startswith(SETTING_PREFIXES):
            self._settings.told(change.key, change.value)
        elif change.value is None:
            self._spending.pop(change.key, None)
        elif change.key.startswith(SPENDING_PREFIX):
            self._spent(change.key, change.value)

    def _spent(self, setting: str, value: bytes) -> None:
        """The model service has told what an account has spent."""
        self._spending[setting] = Spending.read(value)
        kind, namespace, name = setting.removeprefix(SPENDING_PREFIX).split("/", 2)
        if kind in OWNERS:
            # Spending moves with every call: a status that is a moment old spares writes.
            self.queue.add_after(Key(OWNERS[kind], namespace, name), PROGRESS_SECONDS)

    def _worker_changed(self, change: Change) -> None:
        before = self._workers.pop(change.key, None)
        after = None
        if change.value is not None:
            metadata = orjson.loads(change.value).get("metadata") or {}
            if metadata.get("status", "ready") == "ready":
                after = (metadata.get("namespace", ""), metadata.get("pool", ""))
                self._workers[change.key] = after
        for pool in {before, after} - {None}:
            assert pool is not None
            key = Key("Pool", *pool)
            self._look_at((key, *self.cache.dependents(key)))

    async def _look_again(self) -> None:
        while True:
            try:
                await self._clean_up()
            except RetryableError as error:
                log.info("clean-up waits: %s", error)
                await asyncio.sleep(CLEAN_UP_RETRY)
                continue
            self._count_conditions()
            await asyncio.sleep(self._resync)
            for key in self.cache.own_keys():
                self.queue.add(key)

    async def _clean_up(self) -> None:
        """Withdraw settings and cancel runs whose object is gone, seen or unseen."""
        for setting, owner in self._settings.owned():
            if self.cache.get(owner) is None:
                await self._executor.effect(Withdraw(setting))
        for partition in range(PARTITIONS):
            address = engine_address(partition)
            answer = await self._bus.request(address, encode(ListActive()), wait=ENGINE_WAIT)
            # Read after the answer: a Workflow that came meanwhile is no stranger.
            living = {obj["metadata"]["uid"]: obj for obj in self.cache.objects("Workflow")}
            for run in orjson.loads(answer).get("runs", ()):
                workflow = living.get(run.rpartition("-")[0])
                if workflow is None:
                    await self._executor.effect(CancelRun(run, "the Workflow is gone"))
                elif is_own(run) and _replaced(workflow, run):
                    await self._executor.effect(CancelRun(run, "the Workflow has another run"))

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            try:
                await self._one(key)
            finally:
                self.queue.done(key)
                self._metrics.queue_depth.set(len(self.queue))
            # A pass that writes nothing waits for nothing: thousands of them would hold up the lease.
            await asyncio.sleep(0)

    async def _one(self, key: Key) -> None:
        began = time.perf_counter()
        result = "ok"
        try:
            after = await self._pass(key)
            self.queue.forget(key)
            if after is not None:
                self.queue.add_after(key, after)
        except FencedError:
            raise
        except ConflictError:
            result = "conflict"
            self.queue.retry(key)
        except RetryableError as error:
            result = "retry"
            wait = self.queue.retry(key, error.retry_after)
            log.info("%s: again in %.1f s: %s", key, wait, error)
        except SeedbedError as error:
            result = "error"
            log.warning("%s: %s", key, error)
            self.queue.retry(key, TERMINAL_RETRY)
        except Exception:
            # A mistake of ours with one object must not stop all others.
            result = "error"
            log.exception("%s: unexpected failure", key)
            self.queue.retry(key, TERMINAL_RETRY)
        self._metrics.reconciles.labels(key.kind, result).inc()
        self._metrics.reconcile_seconds.labels(key.kind).observe(time.perf_counter() - began)

    async def _pass(self, key: Key) -> float | None:
        observed, plan = self._decide(key)
        if await self._executor.execute(observed, plan):
            observed, plan = self._decide(key)
            if await self._executor.execute(observed, plan):
                self.queue.add(key)
        if observed.object is None and key.kind == "Workflow":
            self._runs.forget(key)
        if observed.object is None and key.kind == "SeedLayer":
            self._seeds.forget(key)
        return plan.requeue_after

    def _decide(self, key: Key) -> tuple[Observed, Plan]:
        observed = self._observe(key)
        decide = REGISTRATIONS[key.kind].reconcile
        return observed, decide(observed, datetime.now(UTC), self._defaults)

    def _observe(self, key: Key) -> Observed:
        obj = self.cache.get(key)
        if obj is not None and obj["metadata"].get("deletionTimestamp"):
            obj = None
        registration = REGISTRATIONS[key.kind]
        published = [name(key.namespace, key.name) for name in registration.settings]
        return Observed(
            key,
            obj,
            children=self.cache.children(key),
            references=self.cache.references(key),
            settings=self._settings.of(published),
            run=self._runs.of(key),
            workers=self._workers_for(key, obj),
            spending=self._spending.get(_account(key), Spending()),
            seeds=self._seeds.of(key) if key.kind == "SeedLayer" else (),
        )

    def _workers_for(self, key: Key, obj: Raw | None) -> int:
        if obj is None or key.kind not in ("Pool", "Agent"):
            return 0
        pool = key.name if key.kind == "Pool" else obj["spec"]["pool"]["name"]
        wanted = (key.namespace, pool)
        return sum(1 for each in self._workers.values() if each == wanted)

    def _count_conditions(self) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        for kind in REGISTRATIONS:
            for obj in self.cache.objects(kind):
                for found in (obj.get("status") or {}).get("conditions") or ():
                    counts[kind, found["type"], found["status"]] += 1
        self._metrics.conditions.clear()
        for labels, number in counts.items():
            self._metrics.conditions.labels(*labels).set(number)


def _account(key: Key) -> str:
    """The live setting that tells what an object has spent."""
    owner = agent_account if key.kind == "Agent" else workflow_account
    return f"{SPENDING_PREFIX}{owner(key.namespace, key.name)}" if key.kind in _SPENDERS else ""


def _replaced(workflow: Raw, run: str) -> bool:
    """Whether the status, which is as new as the spec, names another run.

    A leader that ended between giving a run to the engine and naming it leaves one whose plan may change
    before the next leader looks.
    """
    status = workflow.get("status") or {}
    current = status.get("observedGeneration") == workflow["metadata"].get("generation")
    named = status.get("runId")
    return current and named is not None and named != run
