"""Measures the model service: what it adds to a provider's answer, and what the budget's check costs.

    python -m hack.bench.gateway [--seconds 10] [--clients 1 32] [--database postgresql|sqlite]

A fake provider that answers at once, the service and the load generator are three processes on one
machine. Every call is identified, paid by an Agent's and a Workflow's budget, counted in metrics and
written to the ledger before it is answered. The same load goes to the provider directly first: what
the service adds is the difference of the two. LiteLLM's proxy is not measured here. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbed.cli.gateway import serving_models
from seedbed.cli.loops import fast_loop
from seedbed.crds.messages import agent_setting
from seedbed.crds.spending import workflow_setting
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.store.sql import SqlStore
from tests.servers import PostgresServer

BEHALF = {
    "X-Seedbed-Namespace": "bench",
    "X-Seedbed-Agent": "reader",
    "X-Seedbed-Workflow": "audit",
    "X-Seedbed-Run": "run-1",
}
ASK = {
    "model": "m",
    "messages": [{"role": "user", "content": "Say which licence this is. " * 20}],
    "max_tokens": 64,
}
ANSWER = orjson.dumps(
    {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "It is the MIT licence."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 120, "completion_tokens": 8, "total_tokens": 128},
    }
)


async def provide() -> None:
    """The provider's process: answers at once, and prints its port."""

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    await _forever(app)


async def serve(provider: str, database: str) -> None:
    """The service's process."""
    store = SqlStore.open(database)
    await store.migrate()
    coordinator = MemoryCoordinator()
    budget = orjson.dumps({"budget": {"limit": "100000"}})
    await coordinator.put(agent_setting("bench", "reader"), budget)
    await coordinator.put(workflow_setting("bench", "audit"), budget)
    entry = ModelEntry.model_validate(
        {
            "name": "m",
            "provider": "openai",
            "apiBase": provider,
            "price": {"prompt": "0.15", "completion": "0.60"},
        }
    )
    models = Models(models=(entry,), default="m")
    async with serving_models(
        models, "127.0.0.1", 0, holder="bench", store=store, coordinator=coordinator
    ) as port:
        print(port, flush=True)
        await asyncio.Event().wait()


async def _forever(app: web.Application) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def process(*arguments: str) -> Iterator[tuple[str, int]]:
    """Another process of this file; gives its URL and its id."""
    command = [sys.executable, "-m", "hack.bench.gateway", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(started.stdout.readline())}", started.pid
        finally:
            started.terminate()


async def load(url: str, clients: int, seconds: float) -> list[float]:
    """Seconds of each answer, with so many clients that ask one after the other."""
    times: list[float] = []
    data = orjson.dumps(ASK)
    headers = {**BEHALF, "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client(until: float, kept: list[float]) -> None:
            while (began := time.perf_counter()) < until:
                async with session.post(
                    f"{url}/v1/chat/completions", data=data, headers=headers
                ) as answer:
                    await answer.read()
                    answer.raise_for_status()
                kept.append(time.perf_counter() - began)

        for kept, duration in (([], 1.0), (times, seconds)):
            until = time.perf_counter() + duration
            async with asyncio.TaskGroup() as tasks:
                for _ in range(clients):
                    tasks.create_task(client(until, kept))
    return times


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentiles(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    cuts = statistics.quantiles(times, n=100)
    return {f"p{at}_ms": round(cuts[at - 1] * 1000, 2) for at in (50, 95, 99)}


async def checks(url: str) -> dict[float, float]:
    """How many budget checks took at most so many seconds, so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    name = "seedbed_model_budget_check_seconds"
    buckets = [line for line in lines if line.startswith(f"{name}_bucket")]
    return {float(line.split('"')[1]): float(line.split()[-1]) for line in buckets}


def bound(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """Milliseconds that this share of the checks between took at most: a bucket's bound."""
    counts = {le: after[le] - before.get(le, 0.0) for le in after}
    return next(le * 1000 for le, count in counts.items() if count >= share * max(counts.values()))


@asynccontextmanager
async def database(kind: str) -> AsyncIterator[str]:
    """An empty database of a kind."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield f"sqlite:///{folder}/store.db"
            return
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server.database()
        finally:
            server.stop()


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "database": options.database,
        "seconds": options.seconds,
        "at_clients": {},
    }
    async with database(options.database) as url:
        with (
            process("--provide") as (provider, _),
            process("--serve", f"{provider}/v1", "--url", url) as (service, pid),
        ):
            directly = {
                each: await load(provider, each, options.seconds) for each in options.clients
            }
            # The first calls draw the first advances and compile the statements.
            await load(service, max(options.clients), 1.0)
            first = await checks(service)
            for clients in options.clients:
                alone = directly[clients]
                before = cpu_seconds(pid)
                through = await load(service, clients, options.seconds)
                used = cpu_seconds(pid) - before
                direct, whole = percentiles(alone), percentiles(through)
                added = {f"added_{name}": round(whole[name] - direct[name], 2) for name in whole}
                row = {
                    **added,
                    "requests_per_second": round(len(through) / options.seconds),
                    "provider_requests_per_second": round(len(alone) / options.seconds),
                    "service_cpu_ms_per_request": round(used * 1000 / len(through), 2),
                }
                found["at_clients"][str(clients)] = row
                print(clients, row, flush=True)
            last = await checks(service)
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                found[f"budget_check_{name}_ms_at_most"] = bound(first, last, share)
    row = found["at_clients"].get("32") or next(iter(found["at_clients"].values()))
    return {**found, **{key: row[key] for key in row if key != "provider_requests_per_second"}}


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--provide", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.provide:
        asyncio.run(provide())
    elif options.serve:
        # As `seedbed serve gateway` runs it.
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            runner.run(serve(options.serve, options.url))
    else:
        print(json.dumps(asyncio.run(measure(options))))


if __name__ == "__main__":
    main()
