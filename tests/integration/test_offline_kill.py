"""The model service as a process of its own, killed in the middle of a batch: nothing is lost or paid twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import openai
import pytest
import yaml

from seedbed.crds.spending import namespace_account
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async
from tests.integration.test_gateway_kill import gateway
from tests.providers import Json, provider
from tests.servers import EtcdServer

BY_BATCH, BY_ITSELF = 20, 40
CONCURRENCY = 4


@pytest.fixture
def etcd(etcd_server: EtcdServer) -> str:
    return etcd_server.endpoint


def client(base: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="any", max_retries=0)


def lines() -> bytes:
    found = []
    for at in range(BY_BATCH + BY_ITSELF):
        body = {
            "model": "batched" if at < BY_BATCH else "plain",
            "messages": [{"role": "user", "content": f"number {at}"}],
            "max_tokens": 10,
        }
        asked = {"custom_id": str(at), "method": "POST", "url": "/v1/chat/completions"}
        found.append(json.dumps({**asked, "body": body}).encode())
    return b"\n".join(found)


@pytest.mark.req("COG-5.2.1")
@pytest.mark.req("COG-3.4.1")
def test_a_killed_gateway_goes_on_with_its_batch(
    store_url: str, etcd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEDBED_LEASE_SECONDS", "2")

    async def body() -> None:
        async with provider(say=lambda _: "one two three", jitter=0.05) as fake:
            # The provider makes its batch, and the answer that says so never comes.
            fake.batches.loses = 1
            fake.batches.held = True
            entry: Json = {"provider": "openai", "apiBase": fake.url}
            entry["price"] = {"prompt": "100", "completion": "100"}
            document = {
                "default": "batched",
                "models": [
                    {**entry, "name": "batched", "batchApi": True, "failover": False},
                    {**entry, "name": "plain", "failover": False},
                ],
                "offline": {"pollSeconds": 0.2, "concurrency": CONCURRENCY},
                "budgets": {"default": {"limit": "100"}},
            }
            models = tmp_path / "models.yaml"
            models.write_text(yaml.safe_dump(document))
            async with gateway(models, store_url, etcd) as (base, process), client(base) as asking:
                file = await asking.files.create(file=("in.jsonl", lines()), purpose="batch")
                batch = await asking.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                )
                while not fake.batches.made or len(fake.seen) < BY_ITSELF // 3:
                    await asyncio.sleep(0.01)
                process.kill()
                await process.wait()
            assert len(fake.seen) < BY_ITSELF
            fake.batches.held = False
            async with gateway(models, store_url, etcd) as (base, _), client(base) as asking:
                while batch.status != "completed":
                    batch = await asking.batches.retrieve(batch.id)
                    assert batch.status in ("in_progress", "finalizing", "completed"), batch
                    await asyncio.sleep(0.05)
                content = await asking.files.content(str(batch.output_file_id))
            answered = [json.loads(one)["custom_id"] for one in content.text.splitlines()]
            assert sorted(map(int, answered)) == [*range(BY_BATCH + BY_ITSELF)]
            assert fake.batches.asked_to_make == 1, "the batch was found, not made again"
            assert len(fake.batches.lines) == BY_BATCH
            assert BY_ITSELF <= len(fake.seen) <= BY_ITSELF + CONCURRENCY
            store = SqlStore.open(store_url)
            try:
                ledger, name = SqlLedger(store), namespace_account("default")
                (cost,) = await ledger.costs("namespace", namespace="default")
                account = (await ledger.accounts([name]))[name]
            finally:
                await store.close()
            assert cost.calls == BY_BATCH + BY_ITSELF, "each answer is in the ledger, once"
            assert account.spent == cost.nanos

    run_async(body(), 100)
