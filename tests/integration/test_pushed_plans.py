"""Pushed plans: kept by content and namespace, through store, API and command line."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.crds.steps_document import read_steps
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.plans import PlanPages
from seedbed.runtime.store.plans import PlanRow, SqlPlans
from seedbed.runtime.store.sql import SqlStore
from tests.conftest import run_async
from tests.small_engine import a_store
from tests.unit.test_api import Rights, api

SEEDBED = str(Path(sys.executable).parent / "seedbed")
STEPS = [{"name": "a", "call": {"entry": "m:f"}}, {"name": "b", "call": {"entry": "m:f"}}]
ALLOWED = tuple(str(Action(verb, "workflows", "team-a")) for verb in ("create", "list", "delete"))


def test_a_plan_is_kept_for_its_namespace_alone(store_url: str) -> None:
    async def body() -> None:
        store = SqlStore.open(store_url)
        await store.migrate()
        plans = SqlPlans(store)
        first = PlanRow("one", "a" * 64, 1.0, 3, 5)
        second = PlanRow("one", "b" * 64, 2.0, 4, 6)
        await plans.put(first, b"first")
        await plans.put(second, b"second")
        await asyncio.gather(*(plans.put(second, b"second") for _ in range(8)))
        assert await plans.of_namespace("one") == [second, first]
        assert await plans.data("one", first.digest) == b"first"
        assert await plans.data("two", first.digest) is None
        assert not await plans.remove("two", first.digest)
        assert await plans.remove("one", first.digest)
        assert await plans.of_namespace("one") == [second]
        await store.close()

    run_async(body())


def api_of(plans: SqlPlans) -> AbstractAsyncContextManager[Any]:
    return api(Rights(*ALLOWED), more=[PlanPages(plans)])


def test_the_api_takes_lists_and_forgets_plans_for_those_who_may(tmp_path: Path) -> None:
    document = yaml.safe_dump({"steps": STEPS}).encode()
    digest = hashlib.sha256(document).hexdigest()

    async def body() -> None:
        async with a_store(tmp_path) as store, api_of(SqlPlans(store)) as call:
            base = "/api/v3/plans/team-a"
            status, told, _ = await call("POST", base, data=document)
            assert status == 201
            assert told["url"] == f"seedbed://sha256/{digest}"
            assert (told["steps"], told["bytes"]) == (2, len(document))
            status, told, _ = await call("GET", base)
            assert [plan["sha256"] for plan in told["plans"]] == [digest]
            status, told, _ = await call("POST", "/api/v3/plans/team-b", data=document)
            assert (status, told["error"]["code"]) == (403, "forbidden")
            status, told, _ = await call("POST", base, data=b"- {name: A}")
            assert (status, told["error"]["code"]) == (400, "invalid")
            assert "[0].name" in told["error"]["message"]
            assert (await call("DELETE", f"{base}/{digest}"))[0] == 200
            assert (await call("DELETE", f"{base}/{digest}"))[0] == 404

    run_async(body())


def test_a_body_beyond_other_pages_is_taken_and_a_larger_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seedbed.runtime.api.plans.DOCUMENT_LIMIT", 1024 * 1024)
    many = [{**STEPS[0], "name": f"step-{n}"} for n in range(12_000)]

    async def body() -> None:
        async with a_store(tmp_path) as store, api_of(SqlPlans(store)) as call:
            status, told, _ = await call("POST", "/api/v3/plans/team-a", data=json.dumps(many))
            assert (status, told["steps"]) == (201, 12_000)
            status, told, _ = await call("POST", "/api/v3/plans/team-a", data=b" " * (1 << 21))
            assert status == 400
            assert "more than 1048576 bytes" in told["error"]["message"]

    run_async(body())


def test_the_command_checks_packs_and_pushes(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [
            {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}}
        ],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(STEPS))
    (tmp_path / "circle.yaml").write_text(yaml.safe_dump([{**STEPS[0], "needs": ["a"]}]))

    async def seedbed(server: str, *arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            SEEDBED,
            "plan",
            *arguments,
            "--api",
            server,
            "--token",
            "good",
            cwd=tmp_path,
            env={"KUBECONFIG": str(tmp_path / "kubeconfig"), "HOME": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def body() -> None:
        async with a_store(tmp_path) as store:
            plans = SqlPlans(store)
            async with api_of(plans) as call:
                server = call.address
                code, out, err = await seedbed(server, "push", "plan.yaml")
                assert code == 0, err
                digest = out.strip().removeprefix("seedbed://sha256/")
                kept = await plans.data("team-a", digest)
                assert kept is not None
                assert hashlib.sha256(kept).hexdigest() == digest
                assert [step.name for step in read_steps(kept)] == ["a", "b"]
                code, out, _ = await seedbed(server, "list")
                assert (code, digest in out) == (0, True)
                code, _, err = await seedbed(server, "push", "circle.yaml")
                assert code == 1
                assert "circle.yaml: " in err
                assert "cannot need itself" in err
                code, _, err = await seedbed(server, "delete", f"seedbed://sha256/{digest}")
                assert code == 0, err
                assert await plans.of_namespace("team-a") == []

    run_async(body())
