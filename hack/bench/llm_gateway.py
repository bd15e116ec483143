"""Measures the model service beside LiteLLM's proxy: what each adds to a provider's answer.

    python -m hack.bench.llm_gateway [--seconds 5] [--clients 1 32 256] [--database postgresql]

One provider that answers at once, one load generator, and in turn the service and the proxy before
it, each one process, each a process of its own (`model_load`). Added latency is a percentile through
the service less the same percentile of the provider alone.

The service is started as users start it, `seedbed serve gateway`, with PostgreSQL (or SQLite) and
etcd. On each call its bearer token is known by a TokenReview (which counts for 10 s; the API server
here is one that knows one token), an Agent's and a Workflow's budget pay for it, the cache is looked
up and holds nothing for it, metrics are counted, and its cost is durable in the ledger before it is
answered. The proxy keeps no budgets and no ledger here (see `peers/litellm_proxy`).

Keys of the last line, one JSON object: figures at 32 clients, the same of LiteLLM behind `litellm_`,
streamed ones behind `stream_`, and all of them by number of clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.bench.peers import litellm_proxy
from seedbed.crds.addresses import agent_setting
from seedbed.crds.spending import workflow_setting
from seedbed.operator.certificates import renewed
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from tests.servers import EtcdServer, PostgresServer, free_port

TOKEN = "one-token"  # known to nobody but the API server of this benchmark
HEADERS = (
    f"Authorization: Bearer {TOKEN}",
    "X-Seedbed-Agent: reader",
    "X-Seedbed-Workflow: audit",
    "X-Seedbed-Run: run-1",
)
MODEL = {
    "name": "m",
    "provider": "openai",
    "model": "m",
    "price": {"prompt": "0.15", "completion": "0.60"},
}
TOP = 32
"""Clients of the figures at the last line's top level."""
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


SEEDBED = str(Path(sys.executable).parent / "seedbed")


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process while the context is open."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    ) as started:
        try:
            yield started
        finally:
            started.terminate()


@contextmanager
def provider() -> Iterator[str]:
    """The provider's URL."""
    with process(sys.executable, "-m", "hack.bench.model_load", "provide") as started:
        assert started.stdout is not None
        yield f"http://127.0.0.1:{int(started.stdout.readline())}"


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[dict[str, str]]:
    """An API server that knows one token; gives the environment of who asks it."""
    made = renewed(None, "localhost", datetime.now(UTC))
    for name, data in made.as_data().items():
        (folder / name).write_bytes(data)
    (folder / "token").write_text("the service's own")

    async def review(request: web.Request) -> web.Response:
        asked = (await request.json())["spec"]["token"]
        user = {"username": "system:serviceaccount:bench:worker", "uid": "1"}
        status = {"authenticated": asked == TOKEN, "user": user}
        return web.json_response({"status": status}, status=201)

    app = web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=trust).start()
    try:
        yield {
            "KUBERNETES_SERVICE_HOST": "localhost",
            "KUBERNETES_SERVICE_PORT": str(port),
            "SEEDBED_SERVICE_ACCOUNT": str(folder),
            "SEEDBED_IDENTITY": "kubernetes",
        }
    finally:
        await runner.cleanup()


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """An empty database of a kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/store.db"
        return
    (folder / "postgres").mkdir()
    server = PostgresServer(folder / "postgres")
    server.start()
    try:
        yield server.database()
    finally:
        server.stop()


@asynccontextmanager
async def budgets(folder: Path) -> AsyncIterator[str]:
    """The endpoint of an etcd that holds the budgets of one Agent and one Workflow."""
    (folder / "etcd").mkdir()
    etcd = EtcdServer(folder / "etcd")
    etcd.start()
    try:
        coordinator = EtcdCoordinator.open(etcd.endpoint)
        limit = orjson.dumps({"budget": {"limit": "100000"}})
        await coordinator.put(agent_setting("bench", "reader"), limit)
        await coordinator.put(workflow_setting("bench", "audit"), limit)
        await coordinator.close()
        yield etcd.endpoint
    finally:
        etcd.stop()


@asynccontextmanager
async def service(upstream: str, kind: str, folder: Path) -> AsyncIterator[tuple[str, str, int]]:
    """The service before a provider; gives its URL, that of its metrics, and its process id."""
    models = {
        "default": "m",
        "models": [{**MODEL, "apiBase": f"{upstream}/v1"}],
        "cache": {"mode": "on"},
    }
    (folder / "models.yaml").write_text(yaml.safe_dump(models))
    port, health = free_port(), free_port()
    async with api_server(folder) as account, budgets(folder) as endpoint:
        with (
            database(kind, folder) as url,
            process(
                *(SEEDBED, "serve", "gateway"),
                SEEDBED_MODELS=str(folder / "models.yaml"),
                SEEDBED_DATABASE_URL=url,
                SEEDBED_ETCD_ENDPOINT=endpoint,
                SEEDBED_PORT=str(port),
                SEEDBED_HEALTH_PORT=str(health),
                SEEDBED_LOG_LEVEL="warning",
                **account,
            ) as started,
        ):
            found = f"http://127.0.0.1:{port}"
            await _answers(f"{found}/readyz", started)
            yield found, f"http://127.0.0.1:{health}/metrics", started.pid


async def _answers(url: str, started: subprocess.Popen[str]) -> None:
    async with asyncio.timeout(60):
        while True:
            assert started.poll() is None, "the service has ended"
            try:
                await asyncio.to_thread(fetch, url)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return


def fetch(url: str) -> str:
    """The text of a page."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def cpu_seconds(pid: int) -> float:
    """What a process and its children have used so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / _TICKS
    return own + sum(cpu_seconds(int(child)) for child in children)


def memory_mib(pid: int) -> float:
    """What a process and its children hold."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE / 2**20 + sum(memory_mib(int(child)) for child in children)


@dataclass(frozen=True, slots=True)
class Load:
    """So many clients for so long; `stream` for streamed answers."""

    clients: int
    seconds: float
    stream: bool = False

    @property
    def name(self) -> str:
        """Its key in the figures."""
        return f"stream_{self.clients}" if self.stream else str(self.clients)


@dataclass(slots=True)
class Heard:
    """What one load on one URL gave: seconds of each answer, CPU and memory of the process asked."""

    times: list[float]
    seconds: float
    cpu: float = 0.0
    memory: float = 0.0
    asked: int = 0
    cuts: list[float] = field(init=False)

    def __post_init__(self) -> None:
        enough = len(self.times) > 1
        found = statistics.quantiles(self.times, n=100) if enough else []
        self.cuts = [each * 1000 for each in found]

    def percentile(self, at: int) -> float:
        """Milliseconds."""
        return self.cuts[at - 1]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds


async def heard(url: str, wanted: Load, headers: Sequence[str] = (), pid: int = 0) -> Heard:
    """Put a load on a URL."""
    argv = ["-m", "hack.bench.model_load", "load", url, f"--clients={wanted.clients}"]
    argv += [f"--seconds={wanted.seconds}", *(["--stream"] if wanted.stream else [])]
    argv += [f"--header={each}" for each in headers]
    before = cpu_seconds(pid) if pid else 0.0
    started = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    said, _ = await started.communicate()
    if started.returncode:
        raise RuntimeError(f"the load on {url} ended with {started.returncode}")
    used = cpu_seconds(pid) - before if pid else 0.0
    times: list[float] = json.loads(said)
    # The process asked worked for the warm-up too, of which no times are kept.
    whole = max(1, len(times)) * (wanted.seconds + 1.0) / wanted.seconds
    return Heard(times, wanted.seconds, used / whole, memory_mib(pid) if pid else 0.0)


def added(through: Heard, alone: Heard) -> dict[str, float]:
    """What stands between adds, in milliseconds; answers a second; CPU of a request; memory.

    Where hardly an answer came in all that time, what it added is not known.
    """
    found = {
        f"added_p{at}_ms": round(through.percentile(at) - alone.percentile(at), 3)
        for at in (50, 95, 99)
        if through.cuts
    }
    return {
        **found,
        "requests_per_second": round(through.rate, 1),
        "cpu_ms_per_request": round(through.cpu * 1000, 3),
        "memory_mib": round(through.memory, 1),
    }


def checks(page: str) -> dict[float, float]:
    """How many budget checks took at most so many seconds, so far."""
    name = "seedbed_model_budget_check_seconds"
    lines = [line for line in fetch(page).splitlines() if line.startswith(name)]
    buckets = [line for line in lines if line.startswith(f"{name}_bucket")]
    return {float(line.split('"')[1]): float(line.split()[-1]) for line in buckets}


def bound(counts: dict[float, float], share: float) -> float:
    """Milliseconds that this share took at most: a bucket's bound."""
    return next(le * 1000 for le, count in counts.items() if count >= share * max(counts.values()))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    seconds = options.seconds
    loads = [Load(each, seconds) for each in options.clients]
    loads += [Load(each, seconds, stream=True) for each in (1, TOP)]
    rows: dict[str, dict[str, float]] = {load.name: {} for load in loads}
    found: dict[str, Any] = {"load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory() as made, provider() as upstream:
        folder = Path(made)
        alone = {load.name: await heard(upstream, load) for load in loads}
        for name, each in alone.items():
            rows[name] |= {
                "provider_p50_ms": round(each.percentile(50), 3),
                "provider_requests_per_second": round(each.rate, 1),
            }
        async with service(upstream, options.database, folder) as (url, page, pid):
            # The first calls draw the first advances and compile the statements.
            await heard(url, Load(TOP, 1.0), HEADERS)
            first = checks(page)
            for load in loads:
                figures = added(await heard(url, load, HEADERS, pid), alone[load.name])
                print(load.name, figures, file=sys.stderr, flush=True)
                rows[load.name] |= figures
            counts = {le: count - first[le] for le, count in checks(page).items()}
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                found[f"budget_check_{name}_ms_at_most"] = bound(counts, share)
        if not options.alone:
            await _measure_litellm(upstream, folder, loads, alone, rows)
    return {**found, **_conditions(options), **_top(rows), "at_clients": rows}


async def _measure_litellm(
    upstream: str,
    folder: Path,
    loads: Sequence[Load],
    alone: dict[str, Heard],
    rows: dict[str, dict[str, float]],
) -> None:
    headers = (f"Authorization: Bearer {litellm_proxy.KEY}",)
    with litellm_proxy.litellm_proxy(f"{upstream}/v1", folder) as (url, pid):
        await heard(url, Load(TOP, 2.0), headers)
        for load in loads:
            figures = added(await heard(url, load, headers, pid), alone[load.name])
            print(load.name, "litellm", figures, file=sys.stderr, flush=True)
            rows[load.name] |= {f"litellm_{name}": each for name, each in figures.items()}


def _top(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    streamed = {f"stream_{name}": each for name, each in rows[f"stream_{TOP}"].items()}
    top = rows.get(str(TOP), {})
    found = {**streamed, **top}
    if top.get("litellm_requests_per_second"):
        ratio = top["requests_per_second"] / top["litellm_requests_per_second"]
        found["times_litellm_requests_per_second"] = round(ratio, 1)
        if "litellm_added_p50_ms" in top:
            share = top["added_p50_ms"] / top["litellm_added_p50_ms"]
            found["share_of_litellm_added_p50"] = round(share, 3)
    return found


def _conditions(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("seedbed", "aiohttp", "uvloop")},
        "litellm": f"{litellm_proxy.VERSION}; {litellm_proxy.SETTINGS}",
        "settings": f"{options.database}, etcd, identity by TokenReview, two budgets, metrics",
        "seconds": options.seconds,
        "load_after": os.getloadavg(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--alone", action="store_true", help="without LiteLLM's proxy")
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
