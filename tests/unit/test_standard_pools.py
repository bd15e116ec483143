"""The three Pools that are there without configuration."""

from __future__ import annotations

from typing import Any

import pytest

from seedbed.cli.standard import create, missing_pools
from seedbed.controllers.plan import Raw
from seedbed.crds.admission import validate
from seedbed.crds.errors import UnavailableError
from seedbed.crds.kinds import Kind
from tests.conftest import run_async


def workflow(**spec: Any) -> Raw:
    metadata = {"name": "w", "namespace": "team"}
    return {"kind": "Workflow", "metadata": metadata, "spec": {"pool": {"name": "general"}, **spec}}


def named(objects: list[Raw]) -> list[tuple[str, str]]:
    return [(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in objects]


@pytest.mark.req("FND-01")
def test_manifests_get_the_standard_pools_that_they_name() -> None:
    steps = [{"name": "a"}, {"name": "b", "pool": {"name": "neural"}}]
    agent = {
        "kind": "Agent",
        "metadata": {"name": "x", "namespace": "other"},
        "spec": {"pool": {"name": "optimizer"}},
    }
    added = missing_pools([workflow(steps=steps), agent])
    assert named(added) == [("team", "general"), ("team", "neural"), ("other", "optimizer")]
    assert [problem for pool in added for problem in validate(dict(pool))] == []


def test_what_the_user_brings_or_names_otherwise_is_left_alone() -> None:
    own = {"kind": "Pool", "metadata": {"name": "general", "namespace": "team"}, "spec": {}}
    assert missing_pools([own, workflow()]) == []
    assert missing_pools([workflow(pool={"name": "gpu"})]) == []


class Server:
    """An API server whose webhook does not answer at first."""

    namespace = "default"

    def __init__(self) -> None:
        self.made: dict[str, Raw] = {"neural": {}}
        self.refusals = 2

    async def create(self, _: Kind, obj: Raw) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise UnavailableError("the webhook does not answer", 0.0)
        name = obj["metadata"]["name"]
        return self.made.setdefault(name, obj) is obj


@pytest.mark.req("DSX-01")
def test_all_three_are_made_and_one_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedbed.cli.standard._AGAIN", 0.0)
    server = Server()
    assert run_async(create(server, None, 10.0)) == 0  # type: ignore[arg-type]  # what it uses of one
    workers = {
        name: pool["spec"]["replicas"] * pool["spec"]["workersPerReplica"]
        for name, pool in server.made.items()
        if pool
    }
    assert workers == {"general": 8, "optimizer": 2}
    assert server.made["neural"] == {}
