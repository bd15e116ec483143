"""Goals over HTTP: taken apart, kept, shown; by rules, by a model service, and by the local model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson
import pytest
import yaml

from seedbed.runtime.api.goals import GoalPages
from seedbed.runtime.llm.models import load
from seedbed.runtime.llm.service import serving as model_service
from seedbed.runtime.store.goals import SqlGoals
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.planning.goals.model import ModelPlanner
from seedbed.runtime.workflow.planning.goals.planner import Asked
from tests.api_service import serving_api
from tests.conftest import run_async
from tests.planning_model import PlanningModel
from tests.planning_model import serving as planning_service

ROOT = Path(__file__).resolve().parents[2]
OPERATING_SYSTEM = ROOT / "examples" / "goals" / "operating-system.yaml"
MOST_BYTES = 8_000_000


@asynccontextmanager
async def api(folder: Path, gateway: str = "") -> AsyncIterator[Any]:
    """`await call(method, path, json)` on the API: (status, JSON or text)."""
    store = SqlStore.open(f"sqlite:///{folder / 'runs.db'}")
    await store.migrate()
    more = [GoalPages(SqlGoals(store), gateway)]
    try:
        async with serving_api(store, more=more) as url, aiohttp.ClientSession(url) as http:

            async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
                headers = {"Authorization": "Bearer mine"}
                async with http.request(method, path, json=body, headers=headers) as answer:
                    text = await answer.text()
                    if answer.content_type == "application/json":
                        return answer.status, orjson.loads(text) if len(text) < MOST_BYTES else text
                    return answer.status, text

            yield call
    finally:
        await store.close()


def nodes(task: dict[str, Any]) -> int:
    """Tasks of a nested tree, each checked against the one above."""
    parts = task.get("children", [])
    assert all(part["level"] == task["level"] + 1 for part in parts)
    below = sum(nodes(part) for part in parts)
    assert task["tasks"] == below
    return below + 1


@pytest.mark.req("COG-4.1.2", "COG-4.1.1")
def test_a_tree_of_more_than_ten_thousand_tasks_is_made_kept_and_shown(tmp_path: Path) -> None:
    async def body() -> None:
        async with api(tmp_path) as call:
            template = yaml.safe_load(OPERATING_SYSTEM.read_text())
            asked = {
                "namespace": "team-a",
                "goal": "Build operating system",
                "template": template,
                "maxTasks": 20_000,
            }
            status, made = await call("POST", "/api/v3/tasks/decompose", asked)
            assert status == 201
            assert made["tasks"] > 10_000
            assert made["depth"] >= 100
            status, told = await call("GET", made["hierarchy"])
            assert status == 200
            assert (told["id"], told["total"]) == (made["id"], made["tasks"])
            assert told["root"]["text"] == "Build operating system"
            assert nodes(told["root"]) == made["tasks"]
            status, part = await call("GET", f"{made['hierarchy']}?under=1&levels=1")
            assert part["root"]["id"] == 1
            assert all("children" not in task for task in part["root"]["children"])
            status, shown = await call("GET", f"{made['hierarchy']}?form=html")
            assert status == 200
            assert shown.count("<li>") == made["tasks"] - 1
            assert shown.count("<details") == shown.count("</details>")
            assert shown.count("<details open") < 60
            assert "<script" not in shown
            listed = (await call("GET", "/api/v3/tasks/team-a"))[1]["trees"]
            assert [one["id"] for one in listed] == [made["id"]]
            # Another tenant does not see it, also where it knows the id.
            digest = made["id"].partition("/")[2]
            assert (await call("GET", f"/api/v3/tasks/team-b/{digest}/hierarchy"))[0] == 404
            assert (await call("GET", "/api/v3/tasks/team-b"))[1]["trees"] == []
            assert (await call("POST", "/api/v3/tasks/decompose", asked))[1]["id"] == made["id"]
            assert (await call("DELETE", f"/api/v3/tasks/{made['id']}"))[0] == 200
            assert (await call("GET", made["hierarchy"]))[0] == 404

    run_async(body())


def test_what_cannot_be_done_is_said_in_one_sentence(tmp_path: Path) -> None:
    async def body() -> None:
        async with api(tmp_path) as call:
            path = "/api/v3/tasks/decompose"
            rule = {"goal": "x{a}", "into": [{"text": "x{n}", "count": 10}]}
            bases: list[tuple[dict[str, Any], str]] = [
                ({}, "template"),
                ({"model": "any"}, "no model service"),
                ({"template": {"rules": []}}, "template.rules"),
                ({"template": {"rules": [rule]}, "maxTasks": 50}, "more than 50 tasks"),
                ({"template": {"rules": [rule]}, "maxDepth": 999}, "maxDepth"),
            ]
            for extra, message in bases:
                asked = {"namespace": "team-a", "goal": "xy", **extra}
                status, told = await call("POST", path, asked)
                assert status in (400, 500), told
                assert message in told["error"]["message"]
            status, told = await call("GET", "/api/v3/tasks/team-a/absent/hierarchy")
            assert (status, told["error"]["code"]) == (404, "not_found")

    run_async(body())


@pytest.mark.req("COG-4.1.1")
def test_a_model_plans_with_the_callers_own_token(tmp_path: Path) -> None:
    model = PlanningModel(width=3, levels=5, bushy=1)

    async def body() -> None:
        async with planning_service(model) as session:
            gateway = str(cast("Any", session)._base_url)
            async with api(tmp_path, gateway) as call:
                asked = {"namespace": "team-a", "goal": "go", "model": "m", "maxDepth": 20}
                status, made = await call("POST", "/api/v3/tasks/decompose", asked)
                assert status == 201
                assert made["depth"] == 20
                assert made["calls"] == len(model.requests) > 1
                assert {one["Authorization"] for one in model.headers} == {"Bearer mine"}
                assert {one["X-Seedbed-Namespace"] for one in model.headers} == {"team-a"}
                assert nodes((await call("GET", made["hierarchy"]))[1]["root"]) == made["tasks"]

    run_async(body())


def test_the_local_model_is_held_to_the_form_of_a_plan() -> None:
    """What the small model says is of little use; that it cannot say anything but a plan is."""

    async def body() -> None:
        async with (
            model_service(load(None), "127.0.0.1", 0) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        ):
            planner = ModelPlanner(session, "smollm2", levels=1, answer_tokens=200)
            request = planner.request([Asked("Organise a birthday party", 0)], rows=1)
            async with session.post("/v1/chat/completions", json=request) as answer:
                content = (await answer.json())["choices"][0]["message"]["content"]
            rows = orjson.loads(content)["tasks"]
            assert len(rows) == 1
            for row in rows:
                assert {*row} == {"id", "parent", "text", "whole"}
                assert (row["parent"], type(row["whole"])) == (1, bool)
                assert row["id"] >= 2
                assert row["text"]

    run_async(body(), 110.0)
