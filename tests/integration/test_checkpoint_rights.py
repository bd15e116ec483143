"""Restore and fork write Workflows on a real API server, with the caller's own token and rights."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import ControlPlane
from seedbed.crds.checkpoint import forked, restored
from seedbed.crds.errors import ConflictError, InvalidError, NotFoundError
from seedbed.runtime.api.access import ForbiddenError, UnauthenticatedError
from seedbed.runtime.api.objects import kubernetes_workflows
from seedbed.runtime.workflow.checkpoint.keys import new_line, parse
from tests.conftest import run_async

SPACE = "team-forks"


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """A namespace with a Workflow, somebody who may edit Workflows and somebody who may read them."""
    here = ("-n", SPACE)
    control_plane.kubectl("create", "namespace", SPACE)
    for name, verbs in (("editor", "get,patch,create"), ("reader", "get")):
        control_plane.kubectl(*here, "create", "serviceaccount", name)
        rights = (f"--verb={verbs}", "--resource=workflows.seedbed.dev")
        control_plane.kubectl(*here, "create", "role", name, *rights)
        who = (f"--role={name}", f"--serviceaccount={SPACE}:{name}")
        control_plane.kubectl(*here, "create", "rolebinding", name, *who)
    spec = {
        "params": {"limit": 3},
        "steps": [{"name": "read", "call": {"entry": "builtins:dict"}}],
        "forkFrom": {"workflow": "earlier"},
    }
    metadata = {"name": "audit", "namespace": SPACE, "labels": {"team": "a"}}
    head = {"apiVersion": "seedbed.dev/v1alpha1", "kind": "Workflow"}
    manifest = yaml.safe_dump({**head, "metadata": metadata, "spec": spec})
    control_plane.kubectl("apply", "-f", "-", stdin=manifest)
    yield control_plane
    control_plane.kubectl("delete", "namespace", SPACE, "--wait=false")


@pytest.mark.req("COG-3.1.4")
def test_the_callers_rights_decide(cluster: ControlPlane, tmp_path: Path) -> None:
    def token(name: str) -> str:
        return cluster.kubectl("-n", SPACE, "create", "token", name).strip()

    async def body() -> None:
        (tmp_path / "ca.crt").write_bytes(cluster.ca.read_bytes())
        editor, reader = await asyncio.gather(
            asyncio.to_thread(token, "editor"), asyncio.to_thread(token, "reader")
        )
        async with kubernetes_workflows(cluster.url, tmp_path) as workflows:
            audit: Any = await workflows.get(reader, SPACE, "audit")
            patch = restored(audit, "run-1", 3)
            for refused in (
                workflows.patch(reader, SPACE, "audit", patch),
                workflows.create(reader, audit),
                workflows.get(editor, "default", "audit"),
            ):
                with pytest.raises(ForbiddenError):
                    await refused
            with pytest.raises(UnauthenticatedError):
                await workflows.get("no.such.token", SPACE, "audit")
            with pytest.raises(NotFoundError):
                await workflows.get(reader, SPACE, "nothing")
            after: Any = await workflows.patch(editor, SPACE, "audit", patch)
            # The origin is replaced as a whole, and nothing else is touched.
            assert after["spec"]["forkFrom"] == {"run": "run-1", "checkpoint": 3}
            assert after["spec"]["steps"] == audit["spec"]["steps"]
            assert after["metadata"]["generation"] == audit["metadata"]["generation"] + 1
            with pytest.raises(ConflictError, match="began at checkpoint 3"):
                restored(after, "run-1", 3)
            wanted = forked(after, name="wide", run="run-1", checkpoint=None, params={"limit": 9})
            made: Any = await workflows.create(editor, wanted)
            assert made["spec"]["forkFrom"] == {"run": "run-1"}
            assert made["spec"]["params"] == {"limit": 9}
            assert made["metadata"]["labels"] == {"team": "a"}
            assert made["metadata"]["uid"] != after["metadata"]["uid"]
            with pytest.raises(ConflictError):
                await workflows.create(editor, wanted)
            with pytest.raises(InvalidError, match="checkpoint"):
                await workflows.patch(
                    editor, SPACE, "audit", {"spec": {"forkFrom": {"checkpoint": 0}}}
                )

    run_async(body())


def test_the_commands_write_with_the_users_kubeconfig(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    def seedbed(*arguments: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "seedbed"), *arguments],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ring() -> dict[str, bytes]:
        told = cluster.kubectl("-n", SPACE, "get", "secret", "keys", "-o", "jsonpath={.data.keys}")
        return parse(base64.b64decode(told).decode(), "the Secret")

    told = seedbed(
        "fork", "audit", "--name", "typed", "--run", "r-9", "--set", "limit=4", "-n", SPACE
    )
    assert "workflow typed created" in told
    shown = cluster.kubectl("-n", SPACE, "get", "workflow.seedbed.dev", "typed", "-o", "yaml")
    spec = yaml.safe_load(shown)["spec"]
    assert (spec["forkFrom"], spec["params"]) == ({"run": "r-9"}, {"limit": 4})
    (tmp_path / "keys").write_text(new_line(0))
    made = ("create", "secret", "generic", "keys", f"--from-file=keys={tmp_path / 'keys'}")
    cluster.kubectl("-n", SPACE, *made)
    before = ring()
    assert "1 older still decrypt" in seedbed("rotate-keys", "--secret", f"{SPACE}/keys")
    after = ring()
    assert len(after) == 2
    assert [*after][:1] == [*before]
    assert after.items() > before.items()
