"""Equal calls that share one, and budgets: who leads pays, and who cannot pay keeps nobody else back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import run_async
from tests.integration.test_budgets import AGENT, bank, entry, until
from tests.providers import Json, provider

ASK: Json = {
    "model": "default",
    "messages": [{"role": "user", "content": "go"}],
    "temperature": 0,
    "max_tokens": 10,
}
JOINED = 'seedbed_model_collapsed_total{model="big"} 1.0'
GONE = 'seedbed_model_requests_total{model="big",outcome="cancelled"} 1.0'


async def counted(session: aiohttp.ClientSession, line: str) -> bool:
    async with session.get("/metrics") as answer:
        return line in await answer.text()


@pytest.mark.req("COG-3.4.1")
def test_the_money_moves_with_who_leads(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            provider(held=True) as fake,
            bank(f"sqlite:///{tmp_path}/store.db", entry(fake, "100")) as one,
        ):
            await one.set_budget("10")

            async def ask(agent: str) -> tuple[int, Json]:
                headers = {**AGENT, "X-Seedbed-Agent": agent}
                async with one.session.post(
                    "/v1/chat/completions", json=ASK, headers=headers
                ) as answer:
                    return answer.status, await answer.json()

            async with asyncio.TaskGroup() as group:
                first = group.create_task(ask("other"))
                while not fake.seen:
                    await asyncio.sleep(0.01)
                second = group.create_task(ask("reader"))
                await until(lambda: counted(one.session, JOINED))
                first.cancel()
                await until(lambda: counted(one.session, GONE))
                fake.let_go()
            status, answer = second.result()
            assert status == 200
            assert answer["seedbed"]["batch"] == "leader"
            assert answer["seedbed"]["cost_dollars"] == "0.0003"
            assert await one.spent() == 300_000, "the Agent that stayed has paid"
            assert len(fake.seen) == 1

    run_async(body())


@pytest.mark.req("COG-3.4.2")
def test_a_leader_without_money_keeps_nobody_back(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            provider(latency=0.01) as fake,
            bank(f"sqlite:///{tmp_path}/store.db", entry(fake, "100")) as one,
        ):
            await one.set_budget("0.000001")

            async def ask(agent: str) -> int:
                headers = {**AGENT, "X-Seedbed-Agent": agent}
                async with one.session.post(
                    "/v1/chat/completions", json=ASK, headers=headers
                ) as answer:
                    return answer.status

            while await ask("reader") != 402:
                await asyncio.sleep(0.01)
            statuses = await asyncio.gather(*(ask(each) for each in ("reader", "a", "b")))
            assert statuses == [402, 200, 200]

    run_async(body())
