"""Operator processes for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hack.cluster import ControlPlane
from tests.servers import EtcdServer, NatsServer, free_port, tied

LEASE = 3.0


class Operator:
    """One `seedbed serve operator` process."""

    def __init__(self, environment: dict[str, str], name: str, folder: Path) -> None:
        self.name = name
        self._port = free_port()
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*tied(), str(Path(sys.executable).parent / "seedbed"), "serve", "operator"],
                env={
                    **os.environ,
                    **environment,
                    "POD_NAME": name,
                    "SEEDBED_HEALTH_PORT": str(self._port),
                },
                stdout=log,
                stderr=log,
            )

    def metrics(self) -> dict[str, float]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._port}/metrics", timeout=2
            ) as page:
                text = page.read().decode()
        except OSError:
            assert self._process.poll() is None, self.log()
            return {}
        found = (line.rpartition(" ") for line in text.splitlines() if line[:1] not in ("#", ""))
        return {name: float(value) for name, _, value in found}

    def log(self) -> str:
        return self._log.read_text()[-4000:]

    @property
    def leads(self) -> bool:
        return self.metrics().get("seedbed_leading") == 1

    @property
    def writes(self) -> float:
        return sum(v for n, v in self.metrics().items() if n.startswith("seedbed_api_writes_total"))

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, within: float) -> int:
        """Its exit code."""
        return self._process.wait(within)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


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
        "KUBECONFIG": str(cluster.kubeconfig),
        "SEEDBED_ETCD_ENDPOINT": etcd.endpoint,
        "SEEDBED_NATS_URL": nats.url,
        "SEEDBED_GATEWAY_URL": "http://127.0.0.1:9",
        "SEEDBED_WEBHOOK_ENABLED": "false",
        "SEEDBED_LEASE_SECONDS": str(LEASE),
        "POD_NAMESPACE": "seedbed",
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
            one.stop()


def until(what: Callable[[], Any], sentence: str, limit: float = 30.0) -> float:
    """Wait until something holds; gives the seconds it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < limit, f"no {sentence} within {limit:g} s"
        time.sleep(0.1)
    return time.monotonic() - began
