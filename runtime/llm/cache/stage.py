"""The cache's part of the chain: an equal request's answer, a similar one's, or the model's.

Answers belong to one namespace and to the model that gave them. They are looked up for the model that
would be asked: the first candidate whose breaker lets it be. Where no model gives an answer, one that
is kept is better than none, also of another candidate and also one that has just run out.

What became of a request stands in `X-Seedbed-Cache`: `exact` and `semantic` were served from the
cache, `stale` was served because no model could be asked, `miss` went to the model, `withheld` would
have been served if the settings let it, `bypass` was not looked up.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

import orjson

from seedbed.crds.errors import SeedbedError
from seedbed.crds.money import dollars
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.cache.key import bucket, prompt_hash
from seedbed.runtime.llm.cache.policy import (
    LARGEST_ANSWER,
    TAGS,
    Wish,
    keeps,
    tags_of,
    wish_of,
)
from seedbed.runtime.llm.cache.settings import CacheSettings
from seedbed.runtime.llm.cache.shelf import Shelf
from seedbed.runtime.llm.cache.stats import Result
from seedbed.runtime.llm.cache.streaming import Assembled, replayed
from seedbed.runtime.llm.call import Attempt, Call, Reply, Rest
from seedbed.runtime.llm.providers import ChatRequest, Json
from seedbed.runtime.llm.resilience.retry import classify
from seedbed.runtime.store.answers import AnswerRow

CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Lookup:
    """One request as the cache sees it.

    Attributes:
        began: of the performance counter.
        at: Unix time.
        may_serve: whether it may be given a kept answer at all.
    """

    call: Call
    wish: Wish
    prompt: str
    tags: tuple[str, ...]
    began: float
    at: float
    may_serve: bool


class CacheStage:
    """See the module.

    Args:
        shelf: where answers are kept.
        reachable: whether a model would be asked now.
        wall: gives Unix time.
    """

    def __init__(
        self,
        settings: CacheSettings,
        shelf: Shelf,
        counting: Counting,
        *,
        reachable: Callable[[str], bool] = lambda _: True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._shelf = shelf
        self._counting = counting
        self._reachable = reachable
        self._wall = wall

    async def __call__(self, call: Call, rest: Rest) -> Reply:
        """The stage."""
        call.origin = ""
        wish = wish_of(call, self._settings)
        tags = tags_of(call.headers.get(TAGS, ""))
        if not wish.anything or not call.candidates:
            call.notes["Cache"] = "bypass"
            self._counting.result(call.identity.namespace, "bypass")
            return await rest(call)
        lookup = self._lookup(call, wish, tags)
        row = await self._equal(lookup) if wish.read else None
        self._counting.looked(lookup.call.identity.namespace, time.perf_counter() - lookup.began)
        if row is not None and lookup.may_serve:
            return self._served(lookup, row, "exact")
        call.notes["Cache"] = "miss" if row is None else "withheld"
        if row is not None:
            self._counting.withheld(call.identity.namespace, "exact")
        return await self._asked(lookup, rest)

    def _lookup(self, call: Call, wish: Wish, tags: tuple[str, ...]) -> Lookup:
        began = time.perf_counter()
        prompt = prompt_hash(call.request)
        may_serve = self._settings.mode == "on" and bucket(prompt) < self._settings.traffic
        return Lookup(call, wish, prompt, tags, began, self._wall(), may_serve)

    async def _equal(self, lookup: Lookup) -> AnswerRow | None:
        """A fresh answer of the model that would be asked."""
        model = self._first(lookup.call)
        row = await self._shelf.find((lookup.call.identity.namespace, model, lookup.prompt))
        return row if row is not None and lookup.at < row.expires_at else None

    def _first(self, call: Call) -> str:
        names = call.candidates
        return next((name for name in names if self._reachable(name)), names[0])

    async def _asked(self, lookup: Lookup, rest: Rest) -> Reply:
        """The model's answer, which is kept; or a kept one where no model gives any."""
        call, before = lookup.call, len(lookup.call.spent)
        try:
            reply = await rest(call)
        except SeedbedError as error:
            row = await self._instead(lookup, error)
            if row is None:
                raise
            call.notes["Degraded"] = error.code
            return self._served(lookup, row, "stale")
        if reply.chunks is not None:
            chunks = self._collected(lookup, reply.chunks, before)
            call.closing.push_async_callback(chunks.aclose)
            return Reply(chunks=chunks)
        if reply.whole is not None:
            self._answered(lookup, reply.whole, before)
        return reply

    async def _instead(self, lookup: Lookup, error: SeedbedError) -> AnswerRow | None:
        """An answer of any candidate that is not too old, where models fail or may not be paid."""
        if not lookup.may_serve or not lookup.wish.read or classify(error) == "caller":
            return None
        namespace = lookup.call.identity.namespace
        for model in lookup.call.candidates:
            row = await self._shelf.find((namespace, model, lookup.prompt))
            if row is not None and lookup.at < row.expires_at + self._settings.stale_seconds:
                return row
        return None

    def _served(self, lookup: Lookup, row: AnswerRow, tier: Result) -> Reply:
        call = lookup.call
        call.served_by, call.origin = CACHE, row.model
        call.attempts.append(Attempt(CACHE, tier))
        call.notes |= {
            "Cache": tier,
            "Cache_Model": row.model,
            "Cache_Age": f"{max(0.0, lookup.at - row.created_at):.0f}",
            "Cache_Saved": dollars(row.nanos),
        }
        self._shelf.used(row)
        whole: Json = orjson.loads(row.answer)
        if "id" in whole:
            whole["id"] = f"cached-{secrets.token_hex(12)}"
        self._counting.result(row.namespace, tier, time.perf_counter() - lookup.began)
        self._counting.saved(row)
        if isinstance(call.request, ChatRequest) and call.request.stream:
            return Reply(chunks=replayed(whole))
        return Reply(whole=whole)

    async def _collected(
        self, lookup: Lookup, chunks: AsyncIterator[Json], before: int
    ) -> AsyncGenerator[Json, None]:
        """A stream on its way to the caller; what it says is kept once it is over."""
        answer = Assembled()
        async for chunk in chunks:
            answer.add(chunk)
            yield chunk
        whole = answer.whole()
        if whole is not None:
            self._answered(lookup, whole, before)

    def _answered(self, lookup: Lookup, whole: Json, before: int) -> None:
        """Count what a model's answer took, and keep it where it is worth it."""
        call = lookup.call
        spent = call.spent[before:]
        cost = sum(each.nanos for each in spent)
        self._counting.result(call.identity.namespace, "miss", time.perf_counter() - lookup.began)
        self._counting.spent(call.identity.namespace, cost)
        if not lookup.wish.write or not keeps(call.request, whole):
            return
        data = orjson.dumps(whole)
        if len(data) > LARGEST_ANSWER:
            return
        usage = whole.get("usage") or {}
        row = AnswerRow(
            id=secrets.token_hex(16),
            namespace=call.identity.namespace,
            model=call.served_by,
            prompt_hash=lookup.prompt,
            scope="",
            text="",
            answer=data,
            nanos=cost,
            prompt_tokens=_whole(usage.get("prompt_tokens")),
            completion_tokens=_whole(usage.get("completion_tokens")),
            created_at=lookup.at,
            expires_at=lookup.at + self._settings.ttl_seconds,
            tags=lookup.tags,
        )
        if self._shelf.keep(row):
            self._counting.stored(row.namespace)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
