"""Prefect as a peer: tasks of one flow against its own server on SQLite.

States arrive at the server late, so what counts is the time until all of them are recorded there.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path


@contextmanager
def server(folder: str) -> Iterator[None]:
    """Prefect's server on a free port, until the context ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        PREFECT_HOME=folder,
        PREFECT_LOGGING_LEVEL="ERROR",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
    )
    command = [str(Path(sys.executable).parent / "prefect"), "server", "start"]
    with Path(folder, "server.log").open("w") as log:
        running = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log
        )
        try:
            until_healthy(f"http://127.0.0.1:{port}/api/health")
            yield
        finally:
            running.terminate()
            running.wait(20)


def until_healthy(url: str) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


async def recorded(flow_run: str, wanted: int, limit: float) -> None:
    """Wait until the server has `wanted` completed task runs of the flow run."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        TaskRunFilter,
        TaskRunFilterState,
        TaskRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    states = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.COMPLETED]))
    runs = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    end = time.monotonic() + limit
    async with get_client() as client:
        while time.monotonic() < end:
            body = {
                "flow_runs": runs.model_dump(mode="json"),
                "task_runs": TaskRunFilter(state=states).model_dump(mode="json"),
            }
            answer = await client.request("POST", "/task_runs/count", json=body)
            if answer.json() >= wanted:
                return
            await asyncio.sleep(0.1)
    raise TimeoutError(f"{wanted} task runs were not recorded")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--chain", type=int, required=True)
    parser.add_argument("--folder", required=True)
    options = parser.parse_args()
    with server(options.folder):
        print(json.dumps(figures(options.steps, options.chain)))


def figures(steps: int, chained: int) -> dict[str, object]:
    # Prefect reads its settings when it is imported, so it is imported once the server is there.
    from prefect import flow, task
    from prefect.context import get_run_context

    @task
    async def noop(number: int) -> int:
        return number

    @flow
    async def fan(count: int) -> str:
        await asyncio.gather(*(noop(number) for number in range(count)))
        return str(get_run_context().flow_run.id)

    @flow
    async def chain(count: int) -> list[float]:
        taken = []
        for number in range(count):
            began = time.perf_counter()
            await noop(number)
            taken.append(time.perf_counter() - began)
        return taken

    async def measure() -> dict[str, object]:
        await fan(5)
        began = time.perf_counter()
        await recorded(await fan(steps), steps, 600.0)
        seconds = time.perf_counter() - began
        taken = sorted(await chain(chained))
        return {
            "version": version("prefect"),
            "settings": "its server on SQLite; until the server has recorded every task's state",
            "steps": steps,
            "steps_per_second": round(steps / seconds, 1),
            "chain_p50_ms": round(statistics.median(taken) * 1000, 3),
            "chain_p99_ms": round(taken[int(len(taken) * 0.99)] * 1000, 3),
        }

    return asyncio.run(measure())


if __name__ == "__main__":
    main()
