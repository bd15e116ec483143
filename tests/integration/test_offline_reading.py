"""Batches of offline work as people see them: over Seedbed's API and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from seedbed.cli.main import app as command_line
from seedbed.runtime.api.batches import BatchPages
from seedbed.runtime.store.batches import BatchRow, BatchStatus, SqlBatches
from seedbed.runtime.store.sql import SqlStore
from tests.api_service import serving_pages
from tests.conftest import run_async
from tests.state_folders import filled_folder


def row(name: str, at: float, status: BatchStatus, **fields: Any) -> BatchRow:
    told = ("team", "", "", "", "", "/v1/embeddings", "file-1", "null")
    return BatchRow(name, *told, status, at, at + 86_400, **fields)


async def filled(store: SqlStore) -> None:
    await store.migrate()
    batches = SqlBatches(store)
    done = {"ended_at": 5.0, "total": 3, "completed": 2, "failed": 1, "saved": 2_000_000}
    await batches.create(row("batch_old", 1.0, "completed", **done))
    await batches.create(row("batch_new", 2.0, "in_progress", reason="no money", total=4))


def test_batches_over_http(tmp_path: Path) -> None:
    async def body() -> None:
        store = SqlStore.open(f"sqlite:///{tmp_path}/store.db")
        await filled(store)
        async with serving_pages(BatchPages(SqlBatches(store))) as session:

            async def told(method: str, path: str, status: int = 200) -> Any:
                async with session.request(method, path) as answer:
                    assert answer.status == status
                    return await answer.json()

            page = await told("GET", "batches?namespace=team&limit=1")
            assert [one["id"] for one in page["data"]] == ["batch_new"]
            assert page["has_more"]
            page = await told("GET", "batches?namespace=team&after=batch_new")
            assert [one["id"] for one in page["data"]] == ["batch_old"]
            assert not (await told("GET", "batches?namespace=other"))["data"]
            assert (await told("GET", "batches/batch_old"))["request_counts"]["failed"] == 1
            await told("GET", "batches/none", 404)
            await told("GET", "batches?limit=0", 400)
            found = await told("POST", "batches/batch_new/cancel")
            assert found["status"] == "cancelling"
            await told("POST", "batches/batch_old/cancel", 409)
        await store.close()

    run_async(body())


def test_batches_on_the_command_line(tmp_path: Path) -> None:
    here = filled_folder(tmp_path / "state", filled)
    run = CliRunner().invoke
    told = run(command_line, ["batches", "list", *here, "-n", "team", "-o", "json"])
    assert told.exit_code == 0, told.output
    assert [one["id"] for one in json.loads(told.output)] == ["batch_new", "batch_old"]
    told = run(command_line, ["batches", "list", *here, "-A"])
    assert "3/3" in told.output
    assert "team" in told.output
    told = run(command_line, ["batches", "show", "batch_new", *here])
    assert "no money" in told.output
    told = run(command_line, ["batches", "cancel", "batch_new", *here])
    assert told.output == "batch_new is cancelling\n"
    assert run(command_line, ["batches", "show", "none", *here]).exit_code == 1
