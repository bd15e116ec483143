"""Engines and workers as real processes, and what is left of a run when one of them, or a server, ends.

Whatever ends, the run finishes and its journal holds exactly one success for each unit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from seedbed.crds.addresses import engine_address, partition_of, pool_setting
from seedbed.crds.engine_requests import Submit, Summarise
from seedbed.crds.errors import UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary
from seedbed.crds.pool import PoolSpec
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.engine import partition_name
from seedbed.runtime.workflow.records import RunFinished, StepSucceeded
from seedbed.runtime.workflow.replay import records_of
from tests.conftest import run_async
from tests.servers import EtcdServer, NatsServer, PostgresServer, free_port

pytestmark = pytest.mark.timeout(90)

ITEMS = 40
LIMIT = 80.0

# A dead worker's step comes back after 2 s instead of 30; and no step here asks an agent.
ROLE = """
import seedbed.cli.serve as serve
import seedbed.runtime.worker.worker as worker
worker.REDELIVER_AFTER = 2.0
serve._load_agents = lambda: None
from seedbed.cli.main import app
app()
"""


class Role:
    """A role's process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def said(self, text: str) -> bool:
        return text in self.log.read_text()


class Place:
    """Servers, the processes on them, and one run."""

    def __init__(
        self, folder: Path, nats: NatsServer, etcd: EtcdServer, postgres: PostgresServer, url: str
    ) -> None:
        self.folder = folder
        self.nats, self.postgres = nats, postgres
        self.run = f"run-{uuid.uuid4().hex[:8]}"
        self.namespace = f"team-{uuid.uuid4().hex[:8]}"
        self.roles: dict[str, Role] = {}
        self._settings = {
            "SEEDBED_NATS_URL": nats.url,
            "SEEDBED_ETCD_ENDPOINT": etcd.endpoint,
            "SEEDBED_DATABASE_URL": url,
            "SEEDBED_GATEWAY_URL": "http://127.0.0.1:9",
            "SEEDBED_NAMESPACE": self.namespace,
            "SEEDBED_POOL": "general",
            "SEEDBED_WORKERS": "4",
            "SEEDBED_LEASE_SECONDS": "2",
        }
        self._etcd, self._url = etcd, url
        self.bus: NatsBus
        self.coordinator: EtcdCoordinator
        self.store: SqlStore

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self.store = SqlStore.open(self._url)
        self.coordinator = EtcdCoordinator.open(self._etcd.endpoint)
        self.bus = await NatsBus.open(self.nats.url, name="test")
        try:
            await self.store.migrate()
            key = pool_setting(self.namespace, "general")
            await self.coordinator.put(key, PoolSpec().model_dump_json(by_alias=True).encode())
            yield
        finally:
            for role in self.roles.values():
                await role.kill()
            await self.bus.close()
            await self.coordinator.close()
            await self.store.close()

    async def start(self, role: str, name: str) -> None:
        log = self.folder / f"{name}.log"
        own = {"POD_NAME": name, "SEEDBED_HEALTH_PORT": str(free_port())}
        with log.open("ab") as lines:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", ROLE, "serve", role),
                env=os.environ | self._settings | own,
                stdout=lines,
                stderr=lines,
            )
        self.roles[name] = Role(process, log)

    async def submit(self) -> None:
        """Start a run: a list, a unit for each of its items, and their sum."""
        note = {"folder": str(self.folder), "label": "${string(item)}", "wait": 0.1}
        steps = [
            {"name": "list", "call": {"entry": "tests.steps:echo", "args": {"n": ITEMS}}},
            {
                "name": "each",
                "forEach": f"{list(range(ITEMS))}.filter(n, n < steps.list.output.n)",
                "call": {"entry": "tests.steps:note", "args": note},
            },
            {
                "name": "all",
                "call": {"entry": "tests.steps:echo", "args": {"got": "${steps.each.output}"}},
            },
        ]
        request = RunRequest(self.run, self.namespace, "plan", {"steps": steps})
        await self._ask(encode(Submit(request)))

    async def _ask(self, payload: bytes) -> RunSummary:
        address = engine_address(partition_of(self.run))
        while True:
            try:
                return decode(RunSummary, await self.bus.request(address, payload, wait=2.0))
            except UnavailableError:
                await asyncio.sleep(0.1)

    def executed(self) -> Counter[str]:
        """How often each unit was executed."""
        path = self.folder / "executed"
        return Counter(path.read_text().splitlines() if path.exists() else ())

    async def begin(self, *engines: str, worker: str = "worker") -> None:
        """Start engines and a worker, and a run that is well under way when this returns."""
        for name in engines:
            await self.start("engine", name)
        await self.start("worker", worker)
        await self.submit()
        await self.halfway()

    async def halfway(self) -> None:
        await until(lambda: len(self.executed()) >= ITEMS // 3)

    async def owner(self) -> str:
        """The engine that owns the run's partition, as soon as there is one."""
        while True:
            found = await self.coordinator.holder(partition_name(partition_of(self.run)))
            if found is not None:
                return found[0]
            await asyncio.sleep(0.05)

    async def finish(self) -> None:
        """Wait until the run has succeeded; its journal tells the truth."""
        while (summary := await self._ask(encode(Summarise(self.run)))).phase == "Running":
            await asyncio.sleep(0.1)
        assert summary.phase == "Succeeded", summary
        await self.check()

    async def check(self) -> None:
        """Each unit has succeeded exactly once, and the run has ended exactly once."""
        records = [record async for _, record in records_of(self.store, self.run)]
        succeeded = Counter(str(one.key) for one in records if isinstance(one, StepSucceeded))
        units = {"list", "all", *(f"each[{at}]" for at in range(ITEMS))}
        assert succeeded == dict.fromkeys(units, 1)
        (end,) = (one for one in records if isinstance(one, RunFinished))
        assert end.result == {"got": [str(at) for at in range(ITEMS)]}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


@pytest.fixture
def place(
    tmp_path: Path,
    nats_server: NatsServer,
    etcd_server: EtcdServer,
    postgres_server: PostgresServer,
    postgres_url: str,
) -> Place:
    return Place(tmp_path, nats_server, etcd_server, postgres_server, postgres_url)


def test_another_engine_takes_over_from_one_that_was_killed(place: Place) -> None:
    async def body() -> None:
        async with place.open():
            await place.begin("one", "two")
            killed = await place.owner()
            await place.roles[killed].kill()
            await place.finish()
            assert await place.owner() != killed

    run_async(body(), LIMIT)


def test_an_engine_that_was_killed_goes_on_where_it_was(place: Place) -> None:
    async def body() -> None:
        async with place.open():
            await place.begin("one")
            await place.roles["one"].kill()
            await place.start("engine", "one")
            await place.finish()

    run_async(body(), LIMIT)


def test_a_paused_engine_writes_nothing_when_it_wakes_up(place: Place) -> None:
    async def body() -> None:
        async with place.open():
            await place.begin("one", "two")
            paused = await place.owner()
            place.roles[paused].send(signal.SIGSTOP)
            await place.finish()
            assert await place.owner() != paused
            # While it was paused results were sent to it; it finds them, and its lease over.
            role = place.roles[paused]
            before = role.log.read_text().count(": owned, ")
            role.send(signal.SIGCONT)
            await until(lambda: role.said("begins anew") or role.said("stops: "))
            # It is an engine like any other again, and has not touched the run.
            await until(lambda: role.log.read_text().count(": owned, ") > before)
            await place.check()

    run_async(body(), LIMIT)


def test_the_steps_of_a_worker_that_was_killed_are_executed_by_another(place: Place) -> None:
    async def body() -> None:
        async with place.open():
            await place.begin("one", worker="first")
            await place.roles["first"].kill()
            await place.start("worker", "second")
            await place.finish()
            assert max(place.executed().values()) > 1

    run_async(body(), LIMIT)


@pytest.mark.parametrize("emptied", [False, True])
def test_a_run_goes_on_when_nats_comes_back(place: Place, emptied: bool) -> None:
    async def body() -> None:
        async with place.open():
            await place.begin("one")
            await asyncio.to_thread(place.nats.kill)
            if emptied:
                place.nats.wipe()
            await asyncio.to_thread(place.nats.start)
            await place.finish()

    run_async(body(), LIMIT)


def test_a_run_goes_on_when_postgresql_comes_back(place: Place) -> None:
    async def body() -> None:
        async with place.open():
            await place.begin("one")
            await asyncio.to_thread(place.postgres.kill)
            await asyncio.to_thread(place.postgres.start)
            await place.finish()

    run_async(body(), LIMIT)
