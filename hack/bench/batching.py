"""Measures batching: how large batches get in a burst, and what waiting for others adds.

    python -m hack.bench.batching [--queries 1000] [--answer-ms 200]

A fake provider that takes lists of prompts and answers each request after the same time, the model
service, and the clients are three processes on one machine. All clients ask at once, each on its own
connection; a second burst follows the first, so that connections are open. Three settings:

    alone      batching and collapsing off: every query is a request to the provider
    batched    queries that differ, as they come
    repeated   each question is asked by five clients at once, at temperature 0

What batching adds is told twice: as the longest time that one of a group waited for others, by the
service's own histogram (the bound of the bucket that 95 % of the groups are below), and as the
difference of the clients' latency to `alone`, which is negative where fewer requests save more time
than waiting costs. The provider counts tokens; `repeated` also tells how many fewer it counts than
without collapsing. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbed.cli.loops import fast_loop
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.service import serving

REPEATS = 5
WAITS = "seedbed_model_batch_wait_seconds_bucket"
SETTINGS: dict[str, dict[str, Any]] = {
    "alone": {"collapse": "off", "windowMilliseconds": 0},
    "batched": {},
    "repeated": {},
}


async def provide(answer: float) -> None:
    """The provider's process: prints its port; `/count` tells and forgets what it was asked."""
    sizes: list[int] = []
    tokens = 0

    async def completions(request: web.Request) -> web.Response:
        nonlocal tokens
        body = orjson.loads(await request.read())
        prompts = body["prompt"] if "prompt" in body else [body["messages"][0]["content"]]
        sizes.append(len(prompts))
        asked = sum(len(prompt.split()) for prompt in prompts)
        tokens += asked + 8 * len(prompts)
        await asyncio.sleep(answer)
        words = "It is the MIT licence, as written."
        usage = {"prompt_tokens": asked, "completion_tokens": 8 * len(prompts)}
        if "prompt" in body:
            choices = [
                {"index": at, "text": words, "finish_reason": "stop"} for at in range(len(prompts))
            ]
        else:
            message = {"role": "assistant", "content": words}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        whole = {"id": "b", "created": 1, "model": "m", "choices": choices, "usage": usage}
        return web.Response(body=orjson.dumps(whole), content_type="application/json")

    async def count(_: web.Request) -> web.Response:
        nonlocal tokens
        told = {"sizes": list(sizes), "tokens": tokens}
        sizes.clear()
        tokens = 0
        return web.json_response(told)

    app = web.Application()
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/v1/chat/completions", completions)
    app.router.add_get("/count", count)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def serve(provider: str, setting: str) -> None:
    """The service's process."""
    entry = {"name": "m", "provider": "openai", "apiBase": provider, "batch": "prompts"}
    price = {"prompt": "0.15", "completion": "0.60"}
    batching = SETTINGS[setting]
    models = Models.model_validate(
        {"models": [{**entry, "price": price}], "default": "m", "batching": batching}
    )
    async with serving(models, "127.0.0.1", 0) as port:
        print(port, flush=True)
        await asyncio.Event().wait()


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Another process of this file; gives its URL."""
    command = [sys.executable, "-m", "hack.bench.batching", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(started.stdout.readline())}"
        finally:
            started.terminate()


async def burst(session: aiohttp.ClientSession, url: str, texts: list[str]) -> list[float]:
    """Seconds of each answer, all asked at once."""

    async def ask(text: str) -> float:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 16,
            "temperature": 0,
        }
        began = time.perf_counter()
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            await answer.read()
            answer.raise_for_status()
        return time.perf_counter() - began

    return list(await asyncio.gather(*(ask(text) for text in texts)))


async def waits(session: aiohttp.ClientSession, url: str) -> dict[float, float]:
    """Groups whose longest wait was at most so many seconds."""
    async with session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [line for line in lines if line.startswith(WAITS)]
    return {float(line.split('le="')[1].split('"')[0]): float(line.split()[-1]) for line in found}


def questions(count: int, repeats: int, burst_number: int) -> list[str]:
    """So many questions of some 40 words, each so many times."""
    about = "Which licence is this, and may it be used for what is sold? " * 3
    return [f"{about} Text {burst_number}-{number // repeats}." for number in range(count)]


async def one(setting: str, provider: str, queries: int) -> dict[str, Any]:
    """One setting's figures."""
    repeats = REPEATS if setting == "repeated" else 1
    connector = aiohttp.TCPConnector(limit=0)
    with process("--serve", f"{provider}/v1", "--setting", setting) as url:
        async with aiohttp.ClientSession(connector=connector) as session:
            await burst(session, url, questions(queries, repeats, 0))
            before = await waits(session, url)
            async with session.get(f"{provider}/count"):
                pass
            times = await burst(session, url, questions(queries, repeats, 1))
            async with session.get(f"{provider}/count") as answer:
                count = await answer.json()
            after = await waits(session, url)
    cuts = statistics.quantiles(times, n=100)
    found: dict[str, Any] = {
        "provider_requests": len(count["sizes"]),
        "provider_tokens": count["tokens"],
        "mean_batch": round(statistics.mean(count["sizes"]), 1),
        "queries_a_request": round(queries / len(count["sizes"]), 1),
        "largest_batch": max(count["sizes"]),
        "latency_p50_ms": round(cuts[49] * 1000, 1),
        "latency_p95_ms": round(cuts[94] * 1000, 1),
        "burst_seconds": round(max(times), 3),
    }
    groups = {le: number - before.get(le, 0.0) for le, number in after.items()}
    if groups:
        enough = 0.95 * max(groups.values())
        bound = next(le for le, number in groups.items() if number >= enough)
        found["wait_p95_ms_at_most"] = bound * 1000
    return found


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All settings, each with a service of its own."""
    found: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "queries": options.queries,
        "answer_ms": options.answer_ms,
    }
    with process("--provide", "--answer-ms", str(options.answer_ms)) as provider:
        for setting in SETTINGS:
            found[setting] = await one(setting, provider, options.queries)
            print(setting, found[setting], flush=True)
    alone, batched, repeated = (found[each] for each in SETTINGS)
    return {
        **found,
        "mean_batch": batched["mean_batch"],
        "added_wait_p95_ms_at_most": batched["wait_p95_ms_at_most"],
        "added_latency_p50_ms": round(batched["latency_p50_ms"] - alone["latency_p50_ms"], 1),
        "added_latency_p95_ms": round(batched["latency_p95_ms"] - alone["latency_p95_ms"], 1),
        "repeated_tokens_saved": round(
            1 - repeated["provider_tokens"] / alone["provider_tokens"], 3
        ),
    }


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--answer-ms", type=float, default=200.0)
    parser.add_argument("--provide", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        if options.provide:
            runner.run(provide(options.answer_ms / 1000))
        elif options.serve:
            runner.run(serve(options.serve, options.setting))
        else:
            print(json.dumps(runner.run(measure(options))))


if __name__ == "__main__":
    main()
