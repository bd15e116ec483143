"""The model service as a process of its own, killed in the middle of calls: the ledger has them all."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
import yaml

from seedbed.crds.money import NANOS
from seedbed.crds.spending import namespace_account
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async
from tests.providers import provider
from tests.servers import EtcdServer, free_port

ROOT = Path(__file__).parents[2]
LIMIT = "1000"
PRICE = 100
"""Dollars for a million tokens."""


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "etcd").mkdir()
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server.endpoint
    server.stop()


@asynccontextmanager
async def gateway(
    models: Path, url: str, etcd: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """`seedbed serve gateway`, ready; killed at the end where it still runs."""
    port = free_port()
    environment = {
        "SEEDBED_MODELS": str(models),
        "SEEDBED_DATABASE_URL": url,
        "SEEDBED_ETCD_ENDPOINT": etcd,
        "SEEDBED_PORT": str(port),
        "SEEDBED_HEALTH_PORT": "0",
        "SEEDBED_LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "seedbed"),
        *("serve", "gateway"),
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    base = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as session:
            while True:
                assert process.returncode is None, "it has ended"
                try:
                    async with session.get(f"{base}/readyz") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        yield base, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def asked(base: str, answered: list[str], enough: asyncio.Event) -> None:
    """Ask until the service is gone; every second call is streamed."""
    headers = {"X-Seedbed-Namespace": "team"}
    async with aiohttp.ClientSession(base, headers=headers) as session:
        for number in range(10_000):
            message = {"role": "user", "content": f"call {number}"}
            ask = {"model": "m", "messages": [message], "stream": number % 2 == 0, "max_tokens": 8}
            try:
                async with session.post("/v1/chat/completions", data=orjson.dumps(ask)) as answer:
                    text = await answer.text()
                    assert answer.status == 200, text
            except aiohttp.ClientError:
                return
            if ask["stream"] and "[DONE]" not in text:
                return
            answered.append(text)
            if len(answered) >= 200:
                enough.set()


@pytest.mark.req("COG-3.4.1")
@pytest.mark.req("COG-3.4.2")
def test_every_call_that_was_answered_is_in_the_ledger(
    store_url: str, etcd: str, tmp_path: Path
) -> None:
    async def body() -> None:
        async with provider(say=lambda _: "one two three", jitter=0.005) as fake:
            price = {"prompt": str(PRICE), "completion": str(PRICE)}
            entry = {"name": "m", "provider": "openai", "apiBase": fake.url, "price": price}
            models = tmp_path / "models.yaml"
            budgets = {"team": {"limit": LIMIT}}
            models.write_text(
                yaml.safe_dump({"default": "m", "models": [entry], "budgets": budgets})
            )
            answered: list[str] = []
            async with gateway(models, store_url, etcd) as (base, process):
                enough = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(32):
                        tasks.create_task(asked(base, answered, enough))
                    await enough.wait()
                    process.kill()
            store = SqlStore.open(store_url)
            try:
                ledger = SqlLedger(store)
                (cost,) = await ledger.costs("namespace", namespace="team")
                name = namespace_account("team")
                account = (await ledger.accounts([name]))[name]
            finally:
                await store.close()
            assert len(answered) >= 200
            assert len(answered) <= cost.calls <= len(fake.billed)
            assert account.spent == cost.nanos, "entries and account agree"
            worst = max(p + c for p, c in fake.billed) * PRICE * 1000
            assert cost.nanos <= fake.cost(PRICE, PRICE) + 32 * worst
            assert account.spent <= 0.95 * int(LIMIT) * NANOS

    run_async(body(), 90)
