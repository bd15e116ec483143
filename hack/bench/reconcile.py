"""Measures the operator on a real API server, etcd and NATS, and controller-runtime beside it.

    python -m hack.bench.reconcile --objects 1000 [--restart-objects 3000] [--idle-seconds 300]
        [--rounds 3] [--webhook] [--no-peer]

1. Creates N Pools with no replicas: each makes one Deployment and one status. Counts the time from
   the first create to the last current status, and the process's CPU and writes. Seedbed and the peer
   take turns; everything is deleted between; the median of the rounds is told.
2. Leaves Seedbed's objects of the first round alone and counts writes.
3. Fills up to M objects, starts the process anew, and counts the time from leadership, listing
   included, to the last reconcile.

The control plane runs without its controller manager, so that a Deployment stays as written. Load
generator, API server, etcd, NATS and operator share the machine. The last line is one JSON object;
`peer_` is controller-runtime, in Go, on the same API server in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.bench.peers import controller_runtime_peer
from hack.bench.pools import CREATORS, DEPLOYMENTS, LIMIT, NAMESPACE, clear, create
from hack.cluster import ClusterError, ControlPlane, control_plane, etcd_server
from tests.clusters import install_crds, serve_webhook_from_here
from tests.metered import Metered
from tests.operators import Operator, settings_of
from tests.servers import NatsServer, free_port

WARM = 20
POLL = 0.2
"""Seconds between two looks at the metrics: each costs who is measured some milliseconds."""
CONCURRENCY = 16
WEBHOOK = "seedbed-webhook"


@dataclass(frozen=True, slots=True)
class Side:
    """Who is measured: how it starts, and what its metrics are called."""

    name: str
    start: Callable[[], Metered]
    leading: str
    reconciles: str
    writes: str
    writing: str = ""

    @contextmanager
    def running(self) -> Iterator[Metered]:
        """A process that leads."""
        process = self.start()
        try:
            wait(process, self.leading, 1)
            yield process
        finally:
            process.end()

    def counters(self, process: Metered) -> tuple[float, float]:
        """Reconciles and writes so far."""
        return process.total(self.reconciles), process.total(self.writes, self.writing)

    def quiet(self, process: Metered, seconds: float = 1.5) -> tuple[float, float]:
        """Wait until it has reconciled nothing for a while; gives its counters."""
        last = self.counters(process)
        while True:
            time.sleep(seconds)
            now = self.counters(process)
            if now[0] == last[0]:
                return now
            last = now


@dataclass(frozen=True, slots=True)
class Created:
    """One round of creation."""

    objects_per_second: float
    cpu_ms: float
    reconciles: float
    writes: float


@dataclass(frozen=True, slots=True)
class Restarted:
    """A start with objects that exist."""

    objects_per_second: float
    seconds_from_exec: float
    writes: float
    rss_mib: float


def wait(process: Metered, what: str, at_least: float) -> float:
    """Wait until a metric reaches a value; gives the time."""
    deadline = time.monotonic() + LIMIT
    while process.total(what) < at_least:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} stays under {at_least}")
        time.sleep(POLL)
    return time.perf_counter()


def created(side: Side, process: Metered, cluster: ControlPlane, count: int) -> Created:
    """Warm up and create objects."""
    create(cluster, 10**6, WARM)
    reconciles, writes = side.quiet(process)
    cpu = process.cpu_seconds()
    seconds = create(cluster, 0, count)
    after = side.quiet(process)
    found = Created(
        count / seconds,
        (process.cpu_seconds() - cpu) * 1000 / count,
        (after[0] - reconciles) / count,
        (after[1] - writes) / count,
    )
    say(f"{side.name}: {found}")
    return found


def restarted(side: Side, count: int) -> Restarted:
    """Start with `count` objects."""
    with side.running() as process:
        led = time.perf_counter()
        finished = wait(process, side.reconciles, count)
        writes = side.quiet(process)[1]
        found = Restarted(
            count / (finished - led), finished - process.started, writes, process.rss_mib()
        )
    say(f"{side.name}: {found}")
    return found


def measure(
    options: argparse.Namespace, cluster: ControlPlane, sides: Sequence[Side]
) -> dict[str, Any]:
    """All phases of all sides."""
    rounds: dict[str, list[Created]] = {side.name: [] for side in sides}
    restarts: dict[str, Restarted] = {}
    children: dict[str, Any] = {}
    idle: dict[str, Any] = {}
    for number in range(options.rounds):
        for side in sides:
            with side.running() as process:
                rounds[side.name].append(created(side, process, cluster, options.objects))
                children[side.name] = child(cluster)
                if number == 0 and side is sides[0]:
                    idle = left_alone(side, process, options.idle_seconds)
                if number == options.rounds - 1:
                    fill = options.restart_objects - options.objects
                    if fill > 0:
                        create(cluster, options.objects, fill)
                    side.quiet(process)
            if number == options.rounds - 1:
                whole = max(options.objects, options.restart_objects) + WARM
                restarts[side.name] = restarted(side, whole)
            clear(cluster)
    if len({json.dumps(each, sort_keys=True) for each in children.values()}) > 1:
        raise RuntimeError(f"the sides did not make the same child: {children}")
    figures: dict[str, Any] = {}
    for side in sides:
        prefix = "" if side is sides[0] else "peer_"
        figures |= told(prefix, rounds[side.name], restarts[side.name])
    return {**figures, **idle}


def told(prefix: str, rounds: Sequence[Created], restart: Restarted) -> dict[str, Any]:
    """The figures of one side: medians of the rounds."""

    def median(name: str, digits: int) -> float:
        return round(float(statistics.median(getattr(each, name) for each in rounds)), digits)

    figures = {
        "objects_per_second": median("objects_per_second", 1),
        "cpu_ms_per_object": median("cpu_ms", 2),
        "reconciles_per_object": median("reconciles", 2),
        "writes_per_object": median("writes", 3),
        "restart_objects_per_second": round(restart.objects_per_second, 1),
        "restart_seconds_from_exec": round(restart.seconds_from_exec, 2),
        "restart_writes": round(restart.writes),
        "rss_mib": round(restart.rss_mib, 1),
        "rounds": [[round(each.objects_per_second, 1), round(each.cpu_ms, 2)] for each in rounds],
    }
    return {prefix + name: value for name, value in figures.items()}


def left_alone(side: Side, process: Metered, seconds: float) -> dict[str, Any]:
    """What it does while nothing changes."""
    say(f"idle for {seconds:g} s")
    cpu, (_, writes) = process.cpu_seconds(), side.counters(process)
    time.sleep(seconds)
    spent = (process.cpu_seconds() - cpu) * 1000 / max(seconds, 1)
    return {
        "idle_writes": round(side.counters(process)[1] - writes),
        "idle_cpu_ms_per_second": round(spent, 2),
    }


def child(cluster: ControlPlane) -> Any:
    """The Deployment of one Pool, as it was asked for."""
    found = json.loads(cluster.kubectl("get", "--raw", f"{DEPLOYMENTS}/pool-0-workers"))
    return found["spec"], found["metadata"]["labels"]


def sides_of(
    options: argparse.Namespace, settings: Mapping[str, str], folder: Path
) -> tuple[list[Side], dict[str, Any]]:
    """Who is measured, and what is to be told of a peer that cannot be."""
    seedbed = Side(
        "seedbed",
        lambda: Operator(settings, "operator", folder),
        "seedbed_leading",
        "seedbed_reconciles_total",
        "seedbed_api_writes_total",
    )
    if not options.peer:
        return [seedbed], {}
    try:
        say("building the peer, where that has not been done")
        built = controller_runtime_peer.program()
    except (ClusterError, subprocess.CalledProcessError) as error:
        return [seedbed], {"peer_skipped": f"it cannot be built here: {error}"}
    peer = Side(
        "controller-runtime",
        lambda: controller_runtime_peer.start(built, settings, folder, CONCURRENCY),
        "leader_election_master_status",
        "controller_runtime_reconcile_total",
        "rest_client_requests_total",
        'method="(POST|PUT|PATCH)"',
    )
    return [seedbed, peer], {"peer": f"controller-runtime {controller_runtime_peer.version()}"}


def with_webhook(cluster: ControlPlane) -> dict[str, str]:
    """Have the API server ask the operator about each Pool; gives the operator's settings for it."""
    port = free_port()
    serve_webhook_from_here(cluster, NAMESPACE, WEBHOOK, port)
    return {
        "SEEDBED_WEBHOOK_ENABLED": "true",
        "SEEDBED_WEBHOOK_SERVICE": WEBHOOK,
        "SEEDBED_WEBHOOK_SECRET": f"{WEBHOOK}-tls",
        "SEEDBED_WEBHOOK_CONFIGURATION": "seedbed",
        "SEEDBED_WEBHOOK_PORT": str(port),
    }


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "objects": options.objects,
        "restart_objects": max(options.objects, options.restart_objects) + WARM,
        "rounds": options.rounds,
        "idle_seconds": options.idle_seconds,
        "work": "one child (Deployment, replicas 0) and one status an object",
        "creators": CREATORS,
        "reconciles_at_a_time": CONCURRENCY,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "kopf": version("kopf"),
        "aiohttp": version("aiohttp"),
        "uvloop": version("uvloop"),
        "controller_manager": False,
        "webhook": options.webhook,
    }


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(f"# {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Start everything, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--restart-objects", type=int, default=3000)
    parser.add_argument("--idle-seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--webhook", action="store_true", help="with admission; without the peer")
    parser.add_argument("--no-peer", dest="peer", action="store_false")
    options = parser.parse_args()
    options.peer = options.peer and not options.webhook
    before = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seedbed-bench-")))
        say("starting the API server, etcd and NATS")
        etcd = f"http://{stack.enter_context(etcd_server()).endpoint}"
        nats = NatsServer(folder)
        nats.start()
        stack.callback(nats.stop)
        cluster = stack.enter_context(control_plane(controller_manager=False))
        install_crds(cluster)
        cluster.kubectl("create", "namespace", NAMESPACE)
        settings = {**settings_of(cluster, etcd, nats.url), "POD_NAMESPACE": NAMESPACE}
        if options.webhook:
            settings |= with_webhook(cluster)
        sides, about = sides_of(options, settings, folder)
        figures = measure(options, cluster, sides)
        facts = {**conditions(options), "load_average_before": before}
        print(json.dumps({**figures, **about, "conditions": facts}))


if __name__ == "__main__":
    main()
