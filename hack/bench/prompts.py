"""Measures prompt de-duplication: patterns found, tokens saved, time of a match.

    python -m hack.bench.prompts [--prompts 10000] [--seed 1]

The workload is made up, by a seed: 120 templates in 12 applications over paragraphs of this
project's own documents. Each application has instructions of ten paragraphs, and each prompt one to
three of 400 passages of three paragraphs as its context. In half of the applications the instructions
begin with a line that differs each time (the date and who asks), as many real ones do. Three in ten
prompts are conversations of an agent whose tool gave a passage that it had given before, and one in
ten has the same passage in its context twice; the rest have no duplicates. Prompts come in random
order.

The prompts go through the service's own chain to a provider in this process that keeps beginnings as
OpenAI documents it: of 1,024 tokens or more, in steps of 128, here for all prompts so far, at half
price. Tokens are those of cl100k_base. Three settings:

    as_is     nothing is changed; the provider's cache works by itself
    default   duplicates become references; tools are sorted
    blocks    also constant paragraphs first (`prompts.prefix: blocks`)

`billed` counts a cached token half. `saved` is against `as_is`, where the provider's cache works too.
The time of a match is that of learning one prompt's messages, in a run of its own. `pure` is the share
of prompts whose pattern holds mostly prompts of their own template, after the first thousand. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbed.runtime.llm.call import Call, Identity
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.prompts.miner import Miner
from seedbed.runtime.llm.prompts.prefix import paragraphs as split
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json

ROOT = Path(__file__).resolve().parents[2]
APPLICATIONS, TEMPLATES, PASSAGES = 12, 120, 400
LEAST, STEP = 1024, 128
SETTINGS: dict[str, Json] = {
    "as_is": {"duplicates": False, "patterns": False, "prefix": "as-given"},
    "default": {},
    "blocks": {"prefix": "blocks"},
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and the template it was made of."""

    template: int
    messages: list[Json]


def paragraphs() -> list[str]:
    """Of the project's documents, of 40 words or more."""
    texts = [path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))]
    found = [" ".join(part.split()) for text in texts for part in text.split("\n\n")]
    return list(dict.fromkeys(each for each in found if len(each.split()) >= 40))


def workload(count: int, seed: int) -> list[Prompt]:
    """So many prompts."""
    chance = random.Random(seed)
    pool = paragraphs()
    chance.shuffle(pool)
    half = len(pool) // 2
    rest = pool[half:]
    passages = ["\n".join(chance.sample(pool[:half], 3)) for _ in range(PASSAGES)]
    words = [word for each in rest for word in each.split() if word.isalpha()]
    instructions = [
        "\n\n".join(chance.sample(rest, 10)) + "\n\nAnswer in one paragraph."
        for _ in range(APPLICATIONS)
    ]
    templates = [
        tuple(" ".join(chance.choices(words, k=chance.randint(9, 25))) for _ in range(3))
        for _ in range(TEMPLATES)
    ]
    found = []
    for number in range(count):
        which = chance.randrange(TEMPLATES)
        application = which % APPLICATIONS
        system = instructions[application]
        if application % 2:
            day = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
            system = f"Today is {day}. The user is {chance.randrange(10**6)}.\n\n{system}"
        begin, middle, end = templates[which]
        name = " ".join(chance.choices(words, k=chance.randint(1, 4)))
        context = chance.sample(passages, chance.randint(1, 3))
        kind = chance.random()
        if kind < 0.1:
            context.append(context[0])
        ask = f"{begin} {name} {middle} {number} {end}"
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": "\n\n".join([*context, ask])},
        ]
        if kind > 0.7:
            messages += [
                {"role": "assistant", "content": "I look it up again."},
                {"role": "user", "content": f"Found:\n\n{chance.choice(context)}"},
                {"role": "assistant", "content": "That was known."},
                {"role": "user", "content": f"{begin} {name} {middle} {number} {end}"},
            ]
        found.append(Prompt(which, messages))
    return found


def tokenizer() -> Any:
    """cl100k_base, from the copy that LiteLLM carries."""
    spec = find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken  # noqa: PLC0415 - reads the folder's name when it is imported

    return tiktoken.get_encoding("cl100k_base")


@dataclass(slots=True)
class Provider:
    """Counts tokens, and those at the beginning that it had before."""

    encoding: Any
    name: str = "m"
    waiting: int = 0
    tokens: int = 0
    cached: int = 0
    _kept: set[bytes] = field(default_factory=set)
    _known: dict[str, list[int]] = field(default_factory=dict)

    async def start(self) -> None:
        """See `Provider`."""

    async def close(self) -> None:
        """See `Provider`."""

    async def complete(self, request: ChatRequest) -> Json:
        """See `Provider`."""
        ids = [
            each
            for message in request.messages
            for each in self._ids(f"<{message.role}>{message.content}")
        ]
        cached = 0
        marks = list(self._marks(ids))
        for length, mark in marks:
            if mark not in self._kept:
                break
            cached = length
        self._kept.update(mark for _, mark in marks)
        self.tokens += len(ids)
        self.cached += cached
        usage = {
            "prompt_tokens": len(ids),
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        message = {"role": "assistant", "content": "ok"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {"id": "c", "choices": choices, "usage": usage}

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """See `Provider`."""
        yield await self.complete(request)

    async def embed(self, request: EmbeddingRequest) -> Json:
        """See `Provider`."""
        return {"data": [], "usage": {"prompt_tokens": len(request.input)}}

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.encoding.encode(text, disallowed_special=())
        return self._known[text]

    def _marks(self, ids: list[int]) -> Iterator[tuple[int, bytes]]:
        digest = blake2b(digest_size=16)
        for at in range(0, len(ids) - STEP + 1, STEP):
            digest.update(repr(ids[at : at + STEP]).encode())
            if at + STEP >= LEAST:
                yield at + STEP, digest.digest()


async def asked(
    settings: Json, prompts: list[Prompt], encoding: Any
) -> tuple[Provider, Gateway, int]:
    """All prompts through the chain; gives the provider, the gateway, and what was spent."""
    entry = {
        "name": "m",
        "provider": "openai",
        "apiBase": "http://127.0.0.1:1/v1",
        "contextLength": 100_000,
        "price": {"prompt": "0.15", "completion": "0.60", "cachedPrompt": "0.075"},
    }
    models = Models.model_validate({"models": [entry], "default": "m", "prompts": settings})
    provider = Provider(encoding)
    gateway = Gateway(models, providers={"m": provider})
    spent = 0
    async with gateway.running():
        for prompt in prompts:
            request = ChatRequest.model_validate({"model": "m", "messages": prompt.messages})
            async with AsyncExitStack() as closing:
                call = Call(request, Identity(), gateway.now() + 60, closing)
                await gateway.answer(call)
                spent += call.cost
    return provider, gateway, spent


def mined(prompts: list[Prompt]) -> dict[str, Any]:
    """Patterns of what users ask, how pure they are, and the time of a match."""
    miner = Miner()
    times: list[float] = []
    groups: dict[str, Counter[int]] = {}
    for number, prompt in enumerate(prompts):
        began = time.perf_counter()
        matches = miner.read(
            paragraph
            for message in prompt.messages
            if message["role"] != "assistant"
            for paragraph in split(message["content"])
        )
        times.append(time.perf_counter() - began)
        pattern = matches[-1].pattern
        if number >= 1000 and pattern is not None:
            groups.setdefault(pattern.name, Counter())[prompt.template] += 1
    total = sum(sum(group.values()) for group in groups.values())
    pure = sum(max(group.values()) for group in groups.values())
    cuts = statistics.quantiles(times, n=1000)
    return {
        "patterns": len(miner.patterns),
        "patterns_of_10_prompts": sum(each.count >= 10 for each in miner.patterns.values()),
        "pure": round(pure / max(1, total), 4),
        "templates_found": len({group.most_common(1)[0][0] for group in groups.values()}),
        "match_p50_ms": round(cuts[499] * 1000, 3),
        "match_p99_ms": round(cuts[989] * 1000, 3),
        "match_max_ms": round(max(times) * 1000, 3),
    }


async def measure(options: argparse.Namespace) -> Json:
    """All of it."""
    prompts = workload(options.prompts, options.seed)
    encoding = tokenizer()
    found: Json = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "prompts": len(prompts),
        "templates": TEMPLATES,
        **mined(prompts),
    }
    print(found, flush=True)
    whole = paid = 0.0
    for setting, fields in SETTINGS.items():
        provider, _, spent = await asked(fields, prompts, encoding)
        billed = provider.tokens - provider.cached / 2
        if setting == "as_is":
            whole, paid = float(provider.tokens), billed
        row = {
            "tokens": provider.tokens,
            "cached_tokens": provider.cached,
            "billed_tokens": round(billed),
            "removed_share": round(1 - provider.tokens / whole, 4),
            "cached_share": round(provider.cached / provider.tokens, 4),
            "saved": round(1 - billed / paid, 4),
            "saved_without_any_cache": round(1 - billed / whole, 4),
            "dollars": round(spent / 1e9, 4),
        }
        found[setting] = row
        print(setting, row, flush=True)
    best = found["blocks"]
    return {**found, "saved": best["saved"], "saved_by_default": found["default"]["saved"]}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
