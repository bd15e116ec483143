"""Roles as real processes: they come up with their servers, tell their health, and drain on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from seedbed.crds.addresses import engine_address, partition_of, pool_setting, work_queue
from seedbed.crds.engine_requests import Report, Submit, decode_request
from seedbed.crds.errors import UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary, StepKey, StepTask
from seedbed.crds.pool import PoolSpec
from seedbed.crds.run_ids import run_id
from seedbed.crds.wire import decode, encode
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from tests.conftest import run_async
from tests.servers import EtcdServer, NatsServer, free_port


class Role:
    """A role's process and its health page."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self._page = f"http://127.0.0.1:{port}"

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page; 0 while it does not answer."""
        try:
            async with aiohttp.ClientSession() as http, http.get(self._page + path) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def until(self, path: str, status: int, text: str = "") -> None:
        while True:
            found, told = await self.page(path)
            if found == status and text in told:
                return
            assert self.process.returncode is None, await self.output()
            await asyncio.sleep(0.05)

    async def output(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.read()).decode()


@asynccontextmanager
async def a_role(name: str, **settings: str) -> AsyncIterator[Role]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from seedbed.cli.main import app; app()",
        "serve",
        name,
        env=os.environ | {"SEEDBED_HEALTH_PORT": str(port), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Role(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def worker(nats: str, etcd: str, namespace: str) -> dict[str, str]:
    return {
        "SEEDBED_NATS_URL": nats,
        "SEEDBED_ETCD_ENDPOINT": etcd,
        "SEEDBED_GATEWAY_URL": "http://127.0.0.1:9",
        "SEEDBED_NAMESPACE": namespace,
        "SEEDBED_POOL": "general",
        "SEEDBED_WORKERS": "2",
        "SEEDBED_DRAIN": "20s",
    }


def test_metrics_of_models_are_at_the_health_port_alone(tmp_path: Path) -> None:
    async def body() -> None:
        port, models = free_port(), tmp_path / "models.yaml"
        entry = {"name": "m", "provider": "openai", "apiBase": "http://127.0.0.1:9/v1"}
        models.write_text(json.dumps({"default": "m", "models": [entry]}))
        settings = {"SEEDBED_MODELS": str(models), "SEEDBED_PORT": str(port)}
        async with a_role("gateway", **settings) as role:
            await role.until("/readyz", 200)
            told = (await role.page("/metrics"))[1]
            assert 'seedbed_model_breaker_state{model="m"} 0.0' in told
            assert "python_info" in told
            agents = Role(role.process, port)
            assert (await agents.page("/readyz"))[0] == 200
            assert (await agents.page("/metrics"))[0] == 404

    run_async(body())


@pytest.mark.req("COG-S7.3")
def test_a_worker_drains_on_sigterm_and_logs_json(
    nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    async def body() -> None:
        namespace = f"ns-{uuid.uuid4().hex[:8]}"
        run = f"run-{namespace}"
        reports: asyncio.Queue[Report] = asyncio.Queue()

        async def engine(payload: bytes) -> bytes:
            request = decode_request(payload)
            assert isinstance(request, Report)
            reports.put_nowait(request)
            return b"{}"

        settings = worker(nats_server.url, etcd_server.endpoint, namespace)
        bus = await NatsBus.open(nats_server.url)
        async with (
            bus.serve(engine_address(partition_of(run)), engine),
            a_role("worker", **settings) as role,
        ):
            await role.until("/readyz", 200)
            assert "python_info" in (await role.page("/metrics"))[1]
            program = {"entry": "asyncio:sleep"}
            for n, delay in enumerate((0.0, 1.5)):
                task = StepTask(
                    run,
                    namespace,
                    "w",
                    StepKey(f"s{n}"),
                    1,
                    "call",
                    program,
                    {"delay": delay},
                    30.0,
                )
                await bus.put_work(work_queue(namespace, "general"), str(n), encode(task))
            first = await reports.get()
            assert first.result.key == StepKey("s0")
            role.process.send_signal(signal.SIGTERM)
            await role.until("/readyz", 503, "its end")
            second = await reports.get()
            assert second.result.key == StepKey("s1")
            assert (first.result.error, second.result.error) == (None, None)
            output = await role.output()
            assert await role.process.wait() == 0, output
        await bus.close()
        lines = [json.loads(line) for line in output.splitlines()]
        assert lines
        assert {line["service"] for line in lines} == {"worker"}

    run_async(body(), limit=90)


def test_a_role_waits_for_its_servers(nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def body() -> None:
        nats_server.stop()
        settings = worker(nats_server.url, etcd_server.endpoint, "waiting")
        async with a_role("worker", **settings) as role:
            await role.until("/livez", 200)
            await role.until("/readyz", 503, "NATS")
            await asyncio.to_thread(nats_server.start)
            await role.until("/readyz", 200)
            await asyncio.to_thread(nats_server.stop)
            await role.until("/readyz", 503, "NATS")
            await asyncio.to_thread(nats_server.start)
            await role.until("/readyz", 200)

    run_async(body(), limit=90)


def test_engine_and_worker_run_a_workflow(
    nats_server: NatsServer, etcd_server: EtcdServer, postgres_url: str
) -> None:
    async def body() -> None:
        namespace = f"ns-{uuid.uuid4().hex[:8]}"
        steps = [{"name": "hello", "call": {"entry": "builtins:dict"}}]
        spec = WorkflowSpec.model_validate({"pool": {"name": "general"}, "steps": steps})
        request = RunRequest(
            run_id(uuid.uuid4().hex, spec),
            namespace,
            "w",
            spec.model_dump(mode="json", by_alias=True),
        )
        servers = {
            "SEEDBED_NATS_URL": nats_server.url,
            "SEEDBED_ETCD_ENDPOINT": etcd_server.endpoint,
        }
        database = {
            "SEEDBED_DATABASE_URL": postgres_url.replace("postgresql:", "postgresql+asyncpg:")
        }
        coordinator = EtcdCoordinator.open(etcd_server.endpoint)
        bus = await NatsBus.open(nats_server.url)
        address = engine_address(partition_of(request.run))
        async with (
            a_role("engine", **servers, **database) as engine,
            a_role("worker", **worker(nats_server.url, etcd_server.endpoint, namespace)) as hands,
        ):
            pool = PoolSpec().model_dump_json(by_alias=True).encode()
            await coordinator.put(pool_setting(namespace, "general"), pool)
            await engine.until("/readyz", 200)
            await hands.until("/readyz", 200)
            ask = encode(Submit(request))
            while True:
                try:
                    summary = decode(RunSummary, await bus.request(address, ask))
                except UnavailableError:
                    await asyncio.sleep(0.05)  # nobody owns the partition yet
                    continue
                if summary.phase not in ("Pending", "Running"):
                    break
                await asyncio.sleep(0.02)
            assert (summary.phase, summary.counts.succeeded) == ("Succeeded", 1), summary
            for role in (engine, hands):
                role.process.send_signal(signal.SIGTERM)
                output = await role.output()
                assert await role.process.wait() == 0, output
        await bus.close()
        await coordinator.close()

    run_async(body(), limit=90)
