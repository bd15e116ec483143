"""What was spent and what routing has learnt, over HTTP and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seedbed.cli.main import app as command_line
from seedbed.runtime.api.costs import CostPages
from seedbed.runtime.store.ledger import Turn
from seedbed.runtime.store.outcomes import OutcomeRow, SqlOutcomes
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.api_service import serving_pages
from tests.conftest import run_async
from tests.integration.test_ledger import entry
from tests.state_folders import filled_folder


async def filled(store: SqlStore) -> None:
    """Two models: the dear one is good at everything, the cheap one at what is easy."""
    await store.migrate()
    rows = [entry(f"big-{n}", 1_000_000, model="big") for n in range(3)]
    rows += [entry(f"small-{n}", 100_000, model="small") for n in range(4)]
    await SqlLedger(store).take(Turn("test", 0, 60, entries=rows))
    outcomes = SqlOutcomes(store)
    for at in range(5):
        await outcomes.add(OutcomeRow("team", "sort", "big", at, 60, 58))
        await outcomes.add(OutcomeRow("team", "sort", "small", at, 60, 57 - 9 * at))


@pytest.mark.req("COG-3.4.1")
@pytest.mark.req("COG-5.3.1")
def test_money_and_quality_over_http(tmp_path: Path) -> None:
    async def body() -> None:
        store = SqlStore.open(f"sqlite:///{tmp_path}/store.db")
        await filled(store)
        async with serving_pages(CostPages(SqlLedger(store), SqlOutcomes(store))) as session:

            async def get(path: str, status: int = 200) -> Any:
                async with session.get(path) as answer:
                    assert answer.status == status
                    return await answer.json()

            found = await get("costs?namespace=team&by=model")
            assert found["dollars"] == "0.0034"
            assert [(one["model"], one["dollars"]) for one in found["costs"]] == [
                ("big", "0.003"),
                ("small", "0.0004"),
            ]
            assert (await get("costs?namespace=nobody"))["costs"] == []
            assert "by" in (await get("costs?by=colour", 400))["error"]["message"]
            await get("costs?since=never", 400)
            await get("routing/report", 400)
            curve = (await get("routing/report?namespace=team"))["curves"]["sort"]
            qualities = [point["quality"] for point in curve]
            costs = [point["dollars_per_thousand"] for point in curve]
            assert qualities == sorted(qualities), "more is asked for and got"
            assert costs == sorted(costs), "and paid"
            assert costs[0] < 0.5 < costs[-1] == pytest.approx(1.0)
            outcome = {
                "namespace": "team",
                "task": "sort",
                "model": "big",
                "hardness": 0,
                "good": 1,
            }
            async with session.post("outcomes", json=outcome) as answer:
                assert answer.status == 201
            async with session.post("outcomes", json={**outcome, "good": 2}) as answer:
                assert answer.status == 400
                assert "good" in (await answer.json())["error"]["message"]
            rows = await SqlOutcomes(store).all("team")
            first = next(r for r in rows if (r.model, r.hardness) == ("big", 0))
            assert (first.asked, first.good) == (61, 59)
        await store.close()

    run_async(body())


@pytest.mark.req("COG-3.4.1")
def test_money_and_quality_on_the_command_line(tmp_path: Path) -> None:
    here = [*filled_folder(tmp_path / "state", filled), "-n", "team"]
    found = CliRunner().invoke(command_line, ["costs", *here])
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[-1] == "total $0.0034"
    found = CliRunner().invoke(command_line, ["costs", *here, "--by", "agent", "-o", "json"])
    assert json.loads(found.output)["costs"][0]["agent"] == "reader"
    found = CliRunner().invoke(command_line, ["models", "report", *here])
    assert found.exit_code == 0, found.output
    assert "sort" in found.output
    assert "QUALITY" in found.output
    found = CliRunner().invoke(command_line, ["costs", *here, "--by", "colour"])
    assert found.exit_code == 1
