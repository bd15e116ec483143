"""Operator processes for tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hack.cluster import ControlPlane
from tests.metered import Metered
from tests.servers import EtcdServer, NatsServer, free_port

LEASE = 3.0


class Operator(Metered):
    """One `seedbed serve operator` process."""

    def __init__(self, environment: Mapping[str, str], name: str, folder: Path) -> None:
        self.name = name
        port = free_port()
        super().__init__(
            [str(Path(sys.executable).parent / "seedbed"), "serve", "operator"],
            {**environment, "POD_NAME": name, "SEEDBED_HEALTH_PORT": str(port)},
            port,
            folder / f"{name}.log",
        )

    @property
    def leads(self) -> bool:
        return self.total("seedbed_leading") == 1

    @property
    def writes(self) -> float:
        return self.total("seedbed_api_writes_total")


def settings_of(cluster: ControlPlane, etcd: str, nats: str) -> dict[str, str]:
    """The environment of an operator without a webhook, by where its servers are."""
    return {
        "KUBECONFIG": str(cluster.kubeconfig),
        "SEEDBED_ETCD_ENDPOINT": etcd,
        "SEEDBED_NATS_URL": nats,
        "SEEDBED_GATEWAY_URL": "http://127.0.0.1:9",
        "SEEDBED_WEBHOOK_ENABLED": "false",
        "POD_NAMESPACE": "seedbed",
    }


@contextmanager
def operators(
    cluster: ControlPlane,
    etcd: EtcdServer,
    nats: NatsServer,
    folder: Path,
    *names: str,
    led: bool = True,
    settings: dict[str, str] | None = None,
) -> Iterator[list[Operator]]:
    """Running operators, one of which leads if `led`. `settings` are environment variables."""
    environment = {
        **settings_of(cluster, etcd.endpoint, nats.url),
        "SEEDBED_LEASE_SECONDS": str(LEASE),
        **(settings or {}),
    }
    running: list[Operator] = []
    try:
        running.extend(Operator(environment, name, folder) for name in names)
        if led:
            until(lambda: any(one.leads for one in running), "a leader")
        yield running
    finally:
        for one in running:
            one.kill()


def until(what: Callable[[], Any], sentence: str, limit: float = 30.0) -> float:
    """Wait until something holds; gives the seconds it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < limit, f"no {sentence} within {limit:g} s"
        time.sleep(0.1)
    return time.monotonic() - began
