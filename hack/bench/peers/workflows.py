"""Runs the peers of the workflow benchmark: each with its own versions in an environment of its own.

    python -m hack.bench.peers.workflows [--only dbos,langgraph] [--steps 10000] [--chain 1000]

DBOS runs on SQLite and on PostgreSQL, LangGraph with its SQLite saver, Temporal's server for
development on a SQLite file, Prefect on its own server; Dask is the reference that is not durable.
What cannot run here is told with its reason. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from hack import environment

CACHE = environment.CACHE / "bench"
LIMIT = 1200.0
Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer.

    Attributes:
        script: its measuring script beside this file.
        packages: what its environment holds.
        durable: whether an acknowledged step survives a crash.
        steps, chained: at most so many, for peers that would take very long.
    """

    script: str
    packages: Sequence[str]
    durable: bool = True
    steps: int = 10_000
    chained: int = 1_000


PEERS: Mapping[str, Peer] = {
    "dbos_sqlite": Peer("dbos_peer.py", ["dbos==3.4.0"]),
    "dbos_postgres": Peer("dbos_peer.py", ["dbos==3.4.0"]),
    "langgraph": Peer(
        "langgraph_peer.py", ["langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2"]
    ),
    "temporal": Peer("temporal_peer.py", ["temporalio==1.35.0"], steps=3_000, chained=200),
    # Newer versions of FastAPI took away what this version of Prefect calls.
    "prefect": Peer(
        "prefect_peer.py", ["prefect==3.8.8", "fastapi==0.149.0"], steps=500, chained=100
    ),
    "dask": Peer("dask_peer.py", ["distributed==2026.8.0"], durable=False),
}


class UnavailableHereError(Exception):
    """A peer cannot run here; the text says why."""


def python_of(peer: Peer) -> Path:
    """The interpreter of the peer's environment, made when it is first asked for."""
    name = hashlib.sha256("\n".join(peer.packages).encode()).hexdigest()[:12]
    venv = CACHE / f"{peer.script.removesuffix('.py')}-{name}"
    python = venv / "bin" / "python"
    if not (venv / "complete").exists():
        uv = str(environment.installer())
        subprocess.run([uv, "venv", "--quiet", "--clear", str(venv)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, *peer.packages], check=True)
        (venv / "complete").touch()
    return python


def temporal_server() -> Path:
    """Temporal's server for development, built from its Go modules once for each version of them."""
    source = HERE / "temporal"
    key = hashlib.sha256(b"".join((source / name).read_bytes() for name in ("main.go", "go.sum")))
    program = CACHE / f"temporal-{key.hexdigest()[:12]}"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise UnavailableHereError("its server is built with Go, which is not here")
    print("building Temporal's server; the first time this takes minutes", file=sys.stderr)
    build = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), "."]
    subprocess.run(build, cwd=source, check=True)
    return program


@contextmanager
def extra_arguments(name: str) -> Iterator[list[str]]:
    """What a peer's script needs beside the sizes."""
    if name == "temporal":
        yield ["--server", str(temporal_server())]
    elif name == "dbos_postgres":
        from tests.servers import PostgresServer  # noqa: PLC0415 - needed for this peer alone

        with tempfile.TemporaryDirectory() as folder:
            server = PostgresServer(Path(folder))
            server.start()
            try:
                yield ["--database", server.database()]
            finally:
                server.stop()
    else:
        yield []


def measure(name: str, steps: int, chained: int) -> Figures:
    """One peer's figures, or why there are none."""
    peer = PEERS[name]
    sizes = {"--steps": min(steps, peer.steps), "--chain": min(chained, peer.chained)}
    arguments = [text for size in sizes.items() for text in map(str, size)]
    try:
        with tempfile.TemporaryDirectory() as folder, extra_arguments(name) as more:
            command = [str(python_of(peer)), "-W", "ignore", str(HERE / peer.script), *arguments]
            done = subprocess.run(
                [*command, "--folder", folder, *more],
                capture_output=True,
                text=True,
                check=True,
                timeout=LIMIT,
            )
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except UnavailableHereError as error:
        return {"skipped": str(error)}
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        return {"skipped": f"failed: {' '.join(last)}"}
    except subprocess.TimeoutExpired:
        return {"skipped": f"not done within {LIMIT:g} s"}
    return {**figures, "durable": peer.durable}


def best_durable(figures: Mapping[str, Figures]) -> tuple[str, float]:
    """The durable peer with the most steps a second, and how many."""
    rates = {
        name: float(one["steps_per_second"]) for name, one in figures.items() if one.get("durable")
    }
    best = max(rates, key=lambda name: rates[name], default="")
    return best, rates.get(best, 0.0)


def measure_all(names: Sequence[str], steps: int, chained: int) -> dict[str, Figures]:
    """The figures of several peers, one after the other."""
    found: dict[str, Figures] = {}
    for name in names:
        found[name] = measure(name, steps, chained)
        print(f"{name:16} {json.dumps(found[name])}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PEERS))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--chain", type=int, default=1_000)
    options = parser.parse_args()
    figures = measure_all(options.only.split(","), options.steps, options.chain)
    name, rate = best_durable(figures)
    best = {"best_durable_peer": name, "best_durable_peer_steps_per_second": rate}
    print(json.dumps({**best, "peers": figures, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
