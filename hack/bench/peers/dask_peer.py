"""Dask as the reference that is not durable: nothing of it is on disk."""

import argparse
import json
import statistics
import time
from importlib.metadata import version

from distributed import Client, LocalCluster


def noop(number: int) -> int:
    return number


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--chain", type=int, required=True)
    parser.add_argument("--folder", required=True)
    options = parser.parse_args()
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(noop, range(100), pure=False))
        began = time.perf_counter()
        client.gather(client.map(noop, range(options.steps), pure=False))
        seconds = time.perf_counter() - began
        taken = []
        last = client.submit(noop, 0, pure=False)
        for _ in range(options.chain):
            started = time.perf_counter()
            last = client.submit(noop, last, pure=False)
            last.result()
            taken.append(time.perf_counter() - started)
        taken.sort()
        figures = {
            "version": version("distributed"),
            "settings": "LocalCluster, 2 processes of 2 threads; each chained step is awaited",
            "steps": options.steps,
            "steps_per_second": round(options.steps / seconds, 1),
            "chain_p50_ms": round(statistics.median(taken) * 1000, 3),
            "chain_p99_ms": round(taken[int(len(taken) * 0.99)] * 1000, 3),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
