"""The model service under the identities and rights of a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from hack.cluster import ControlPlane
from seedbed.cli.gateway import AUDIENCE, KubernetesReview
from seedbed.runtime.api.access import kubernetes_access
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import reviewed
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import provider

SYSTEM, TEAM = "gateway-system", "gateway-team"


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """An account for the service with the chart's rights, and two callers."""
    control = control_plane.kubectl
    for space in (SYSTEM, TEAM):
        control("create", "namespace", space)
    control("-n", SYSTEM, "create", "serviceaccount", "gateway")
    for number, resource in enumerate(
        ("tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io")
    ):
        name = f"gateway-test-{number}"
        control("create", "clusterrole", name, "--verb=create", f"--resource={resource}")
        account = f"--serviceaccount={SYSTEM}:gateway"
        control("create", "clusterrolebinding", name, f"--clusterrole={name}", account)
    control("-n", TEAM, "create", "serviceaccount", "worker")
    control("-n", SYSTEM, "create", "serviceaccount", "guest")
    role = ("--verb=create", "--resource=workflows.seedbed.dev")
    control("-n", TEAM, "create", "role", "author", *role)
    binding = ("--role=author", f"--serviceaccount={SYSTEM}:guest")
    control("-n", TEAM, "create", "rolebinding", "author", *binding)
    yield control_plane
    control("delete", "namespace", SYSTEM, TEAM, "--wait=false")
    for number in range(2):
        control("delete", "clusterrole,clusterrolebinding", f"gateway-test-{number}")


def test_a_caller_pays_from_its_own_namespace_or_one_it_has_the_right_to(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    def token(namespace: str, name: str, *more: str) -> str:
        return cluster.kubectl("-n", namespace, "create", "token", name, *more).strip()

    (tmp_path / "ca.crt").write_bytes(cluster.ca.read_bytes())
    (tmp_path / "token").write_text(token(SYSTEM, "gateway"))
    worker = token(TEAM, "worker", f"--audience={AUDIENCE}")
    cases = [
        ("", "", 401, "invalid_api_key"),
        ("no.such.token", "", 401, "invalid_api_key"),
        (token(TEAM, "worker", "--audience=other"), "", 401, "invalid_api_key"),
        (worker, "", 200, ""),
        (worker, TEAM, 200, ""),
        (worker, SYSTEM, 403, "forbidden"),
        (token(SYSTEM, "guest"), TEAM, 200, ""),
        (token(SYSTEM, "guest"), "default", 403, "forbidden"),
        (worker, "Not a name", 400, "invalid"),
    ]

    async def body() -> None:
        async with (
            provider() as fake,
            kubernetes_access(cluster.url, tmp_path, AUDIENCE) as access,
        ):
            entry = ModelEntry(name="m", provider="openai", api_base=fake.url)
            models = Models(models=(entry,), default="m")
            identify = reviewed(KubernetesReview(access))
            async with (
                serving(models, "127.0.0.1", 0, gateway=Gateway(models), identify=identify) as port,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            ):
                ask = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
                for bearer, namespace, status, code in cases:
                    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
                    if namespace:
                        headers["X-Seedbed-Namespace"] = namespace
                    async with session.post(
                        "/v1/chat/completions", json=ask, headers=headers
                    ) as answer:
                        found = await answer.json()
                        told = found.get("error", {}).get("code", "")
                        assert (answer.status, told) == (status, code), (namespace, found)

    run_async(body())
