"""The API under the rights that a real API server gives, and the command that reads through it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from hack.cluster import ControlPlane, binaries
from seedbed.crds.addresses import partition_of
from seedbed.crds.messages import Counts, RunSummary, StepKey
from seedbed.crds.wire import encode
from seedbed.runtime.api.access import (
    Action,
    ForbiddenError,
    UnauthenticatedError,
    kubernetes_access,
)
from seedbed.runtime.store.port import Commit, Entry, RunRow
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import RunFinished, RunStarted, StepSucceeded
from tests.api_service import serving_api
from tests.clusters import apply
from tests.conftest import run_async

SYSTEM = "seedbed-system"
CHART = Path(__file__).parents[2] / "charts/seedbed"
RUN = "run-1"


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The chart's own accounts and rights of the API, and a reader of one namespace."""
    rendered = subprocess.run(
        [
            *(str(binaries.path("helm")), "template", "seedbed", str(CHART)),
            *("--namespace", SYSTEM, "--show-only", "templates/api.yaml"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")
    rights = [one for one in yaml.safe_load_all(rendered) if one["kind"] in kinds]
    for one in rights:
        if one["kind"] == "ServiceAccount":
            one["metadata"]["namespace"] = SYSTEM
    control_plane.kubectl("create", "namespace", SYSTEM)
    control_plane.kubectl("create", "namespace", "team-a")
    control_plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(rights))
    here = ("-n", "team-a")
    control_plane.kubectl(*here, "create", "serviceaccount", "bot")
    control_plane.kubectl(
        *here, "create", "role", "bot", "--verb=get", "--resource=workflows.seedbed.dev"
    )
    control_plane.kubectl(
        *here, "create", "rolebinding", "bot", "--role=bot", "--serviceaccount=team-a:bot"
    )
    control_plane.kubectl(*here, "create", "serviceaccount", "kim")
    control_plane.kubectl(
        *(*here, "create", "rolebinding", "kim"),
        *("--clusterrole=seedbed-approver", "--serviceaccount=team-a:kim"),
    )
    spec = {"steps": [{"name": "read", "call": {"entry": "builtins:dict"}}]}
    metadata = {"name": "audit", "namespace": "team-a"}
    head = {"apiVersion": "seedbed.dev/v1alpha1", "kind": "Workflow"}
    apply(control_plane, {**head, "metadata": metadata, "spec": spec})
    yield control_plane
    control_plane.kubectl("delete", "namespace", SYSTEM, "team-a", "--wait=false")
    control_plane.kubectl(
        "delete", "-f", "-", "--ignore-not-found", stdin=yaml.safe_dump_all(rights)
    )


def account(cluster: ControlPlane, folder: Path) -> tuple[str, Path]:
    """URL of the API server, and the folder that a pod of the API would have."""
    (folder / "ca.crt").write_bytes(cluster.ca.read_bytes())
    (folder / "token").write_text(cluster.kubectl("-n", SYSTEM, "create", "token", "seedbed-api"))
    return cluster.url, folder


def test_kubernetes_decides(cluster: ControlPlane, tmp_path: Path) -> None:
    async def body() -> None:
        server, folder = account(cluster, tmp_path)
        bot = cluster.kubectl("-n", "team-a", "create", "token", "bot").strip()
        async with kubernetes_access(server, folder) as access:
            with pytest.raises(UnauthenticatedError):
                await access.caller("no.such.token")
            caller = await access.caller(bot)
            assert (caller.name, caller.namespace) == ("system:serviceaccount:team-a:bot", "team-a")
            await access.require(caller, Action("get", "workflows", "team-a", "audit"))
            for refused in (
                Action("get", "workflows", "default", "audit"),
                Action("list", "workflows", "team-a"),
                Action("get", "featureflags", "team-a", "style"),
            ):
                with pytest.raises(ForbiddenError):
                    await access.require(caller, refused)

    run_async(body())


def test_who_may_decide_need_not_be_able_to_edit(cluster: ControlPlane, tmp_path: Path) -> None:
    async def body() -> None:
        server, folder = account(cluster, tmp_path)
        decide = Action("create", "workflows/approvals", "team-a", "audit")
        async with kubernetes_access(server, folder) as access:
            names = {}
            for name in ("bot", "kim"):
                token = cluster.kubectl("-n", "team-a", "create", "token", name).strip()
                names[name] = await access.caller(token)
            await access.require(names["kim"], decide)
            await access.require(
                names["kim"], Action("create", "workflows/events", "team-a", "audit")
            )
            for caller, refused in (
                (names["kim"], Action("update", "workflows", "team-a", "audit")),
                (names["kim"], Action("create", "workflows", "team-a", "audit")),
                (names["bot"], decide),
            ):
                with pytest.raises(ForbiddenError):
                    await access.require(caller, refused)

    run_async(body())


@asynccontextmanager
async def served(cluster: ControlPlane, folder: Path) -> AsyncIterator[str]:
    """The API over a store with one run that has ended; gives its URL."""
    store = SqlStore.open(f"sqlite:///{folder / 'runs.db'}")
    await store.migrate()
    number = partition_of(RUN)
    summary = RunSummary(RUN, "team-a", "audit", 3, "Succeeded", "Succeeded", counts=Counts(1))
    rows = [RunRow(RUN, number, "team-a", "audit", b"{}", encode(summary), finished=True)]
    records = encode_records(
        [
            RunStarted(1.0),
            StepSucceeded(StepKey("read"), 1, 3.0, "worker-1", 2.0, 3.0, {"x": 1}),
            RunFinished(4.0, "Succeeded", "Succeeded", "", {"text": "ü" * 40_000}),
        ]
    )
    await store.claim(number, 1)
    entries = [Entry(RUN, 1, records.data)]
    await store.commit(number, 1, Commit(runs=rows, entries=entries, values=records.values))
    server, account_folder = account(cluster, folder)
    try:
        async with (
            kubernetes_access(server, account_folder) as access,
            serving_api(store, access) as url,
        ):
            yield url
    finally:
        await store.close()


def test_the_command_reads_logs_with_a_token_that_the_user_may_ask_for(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    async def seedbed(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "seedbed"),
            *arguments,
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def body() -> None:
        async with served(cluster, tmp_path) as url:
            # The kubeconfig of the tests has a client certificate and no token.
            where = ("-n", "team-a", "--api", url, "--api-service", f"{SYSTEM}/seedbed-api:http")
            code, told = await seedbed("logs", "audit", *where)
            assert (code, "Succeeded read" in told) == (0, True), told
            assert "worker-1" in told
            code, told = await seedbed("logs", "none", *where)
            assert code == 1
            assert "none" in told
            assert "Traceback" not in told

    run_async(body())


def test_large_results_are_served(cluster: ControlPlane, tmp_path: Path) -> None:
    async def body() -> None:
        token = cluster.kubectl("-n", "team-a", "create", "token", "bot").strip()
        async with served(cluster, tmp_path) as url, aiohttp.ClientSession() as http:
            page = f"{url}/api/v3/workflows/team-a/audit/result"
            async with http.get(page, headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status == 200
                assert json.loads(await answer.text())["result"] == {"text": "ü" * 40_000}
            async with http.get(page) as answer:
                assert answer.status == 401

    run_async(body())
