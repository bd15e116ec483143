"""controller-runtime as a peer of `reconcile`: the same child and the same status, written in Go.

It is built once into the user's cache. See `controller_runtime/main.go` for how it is set up.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from hack.bench.pools import NAMESPACE
from hack.cluster import binaries
from hack.cluster.state import cache_root, locked
from seedbed.controllers.deployment import worker_deployment
from seedbed.controllers.plan import Defaults
from seedbed.crds.pool import PoolSpec
from seedbed.operator.process import worker_environment
from tests.metered import Metered
from tests.servers import free_port

SOURCE = Path(__file__).with_name("controller_runtime")
TEMPLATE = "template"


def version() -> str:
    """The version of controller-runtime."""
    text = (SOURCE / "go.mod").read_text()
    return binaries.module_version(text, "sigs.k8s.io/controller-runtime")


def program() -> Path:
    """The built peer.

    Raises:
        ClusterError: there is no Go here.
        subprocess.CalledProcessError: it cannot be built.
    """
    digest = hashlib.sha256()
    for file in sorted(SOURCE.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    folder = cache_root() / "bench" / f"controller-runtime-{digest.hexdigest()[:16]}"
    built = folder / "peer"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        if not built.exists():
            command = [
                str(binaries.go()),
                "build",
                "-trimpath",
                "-ldflags=-s -w",
                "-o",
                f"{built}.new",
            ]
            settings = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
            subprocess.run(
                [*command, "."],
                cwd=SOURCE,
                env={**os.environ, **settings, "GOWORK": "off"},
                check=True,
            )
            Path(f"{built}.new").rename(built)
    return built


def start(built: Path, settings: Mapping[str, str], folder: Path, concurrency: int) -> Metered:
    """Run the peer with the settings that an operator was given."""
    template = folder / "deployment.json"
    template.write_bytes(orjson.dumps(_deployment(settings)))
    port = free_port()
    argv = [
        str(built),
        f"--metrics=127.0.0.1:{port}",
        f"--namespace={NAMESPACE}",
        f"--template={template}",
        f"--template-pool={TEMPLATE}",
        f"--concurrency={concurrency}",
    ]
    return Metered(argv, settings, port, folder / "peer.log")


def _deployment(settings: Mapping[str, str]) -> dict[str, Any]:
    """What Seedbed's operator makes of a Pool under these settings."""
    names = ("SEEDBED_NATS_URL", "SEEDBED_ETCD_ENDPOINT", "SEEDBED_GATEWAY_URL")
    servers = {name: settings[name] for name in names} | {"SEEDBED_LOG_LEVEL": "info"}
    defaults = Defaults(environment=worker_environment(servers))
    pool = {"kind": "Pool", "metadata": {"name": TEMPLATE, "namespace": NAMESPACE, "uid": ""}}
    return worker_deployment(pool, PoolSpec(replicas=0), defaults)
