"""The cache's part of the chain: an equal request's answer, a similar one's, or the model's.

Answers belong to one namespace and to the model that gave them. They are looked up for the model that
would be asked: the first candidate whose breaker lets it be. Where no model gives an answer, one that
is kept is better than none, also of another candidate and also one that has just run out.

What became of a request stands in `X-Seedbed-Cache`: `exact` and `semantic` were served from the
cache, `stale` was served because no model could be asked, `miss` went to the model, `withheld` would
have been served if the settings let it, `verify` would have been and was asked anyway, to measure how
often such answers are wrong, `bypass` was not looked up.
"""

from __future__ import annotations

import random
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
    calls_tools,
    keeps,
    tags_of,
    wish_of,
)
from seedbed.runtime.llm.cache.semantic import Compared, Semantic
from seedbed.runtime.llm.cache.settings import CacheSettings
from seedbed.runtime.llm.cache.shelf import Shelf
from seedbed.runtime.llm.cache.stats import Result
from seedbed.runtime.llm.cache.streaming import Assembled, replayed
from seedbed.runtime.llm.call import Attempt, Call, Reply, Rest
from seedbed.runtime.llm.requests import ChatRequest, Json
from seedbed.runtime.llm.resilience.retry import classify
from seedbed.runtime.store.answers import AnswerRow

CACHE = "cache"
Flagged = Callable[[str, str, str], bool | None]
"""Whether a namespace's FeatureFlag is on for a subject; None where there is no such flag."""


def no_flags(_namespace: str, _name: str, _subject: str) -> bool | None:
    """Where nobody has any."""
    return None


_LARGEST = 2**31 - 1


@dataclass(slots=True)
class Lookup:
    """One request as the cache sees it.

    Attributes:
        began: of the performance counter.
        at: Unix time.
        may_serve: whether it may be given a kept answer at all.
        model: whose answers are looked for.
        is_kept: whether the answer to an equal request is there and fresh.
        compared: what comes closest, where similar requests count and no equal one was found.
    """

    call: Call
    wish: Wish
    prompt: str
    tags: tuple[str, ...]
    began: float
    at: float
    may_serve: bool
    model: str
    is_kept: bool = False
    compared: Compared | None = None

    @property
    def namespace(self) -> str:
        """The tenant."""
        return self.call.identity.namespace


class CacheStage:
    """See the module.

    Args:
        shelf: where answers are kept.
        semantic: finds similar requests; None where only equal ones count.
        reachable: whether a model would be asked now.
        flagged: decides FeatureFlags.
        wall: gives Unix time.
        chance: a random number from 0 to 1.
    """

    def __init__(
        self,
        settings: CacheSettings,
        shelf: Shelf,
        counting: Counting,
        semantic: Semantic | None = None,
        *,
        reachable: Callable[[str], bool] = lambda _: True,
        flagged: Flagged = no_flags,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.shelf = shelf
        self._settings = settings
        self._counting = counting
        self._semantic = semantic
        self._reachable = reachable
        self._flagged = flagged
        self._wall = wall
        self._chance = chance

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
        reply = await self._kept(lookup)
        self._counting.looked(lookup.namespace, time.perf_counter() - lookup.began)
        return reply or await self._asked(lookup, rest)

    def _lookup(self, call: Call, wish: Wish, tags: tuple[str, ...]) -> Lookup:
        began = time.perf_counter()
        prompt = prompt_hash(call.request)
        may_serve = self._settings.mode == "on" and self._admits(call.identity.namespace, prompt)
        model = self._first(call)
        return Lookup(call, wish, prompt, tags, began, self._wall(), may_serve, model)

    def _admits(self, namespace: str, prompt: str) -> bool:
        """Whether the request is of the part of the traffic that is served."""
        flag = self._settings.flag
        decided = self._flagged(namespace, flag, prompt) if flag else None
        return bucket(prompt) < self._settings.traffic if decided is None else decided

    async def _kept(self, lookup: Lookup) -> Reply | None:
        """A kept answer; None where the model is asked, and the notes tell why."""
        call, model = lookup.call, lookup.model
        call.notes["Cache"] = "miss"
        if lookup.wish.read:
            row = await self.shelf.find((lookup.namespace, model, lookup.prompt))
            if row is not None and lookup.at < row.expires_at:
                lookup.is_kept = True
                return self._served(lookup, row, "exact")
        if self._semantic is None or not lookup.wish.similar:
            return None
        lookup.compared = await self._semantic.compare(
            lookup.namespace, model, call.request, lookup.at
        )
        compared = lookup.compared
        if compared is None or not lookup.wish.read:
            return None
        serves = self._settings.semantic == "on" and lookup.may_serve
        found = compared.serves
        if found is None:
            if serves and compared.unproven:
                call.notes["Cache"] = "verify"
            return None
        if serves and self._chance() < self._settings.verify:
            call.notes["Cache"] = "verify"
            return None
        return self._served(lookup, found, "semantic")

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
            return self._reply(lookup, row, "stale")
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
        for model in lookup.call.candidates:
            row = await self.shelf.find((lookup.namespace, model, lookup.prompt))
            if row is not None and lookup.at < row.expires_at + self._settings.stale_seconds:
                return row
        return None

    def _served(self, lookup: Lookup, row: AnswerRow, tier: Result) -> Reply | None:
        """The answer, where the settings let it be served."""
        allowed = tier == "exact" or self._settings.semantic == "on"
        if lookup.may_serve and allowed:
            return self._reply(lookup, row, tier)
        lookup.call.notes["Cache"] = "withheld"
        self._counting.withheld(lookup.namespace, tier)
        return None

    def _reply(self, lookup: Lookup, row: AnswerRow, tier: Result) -> Reply:
        call = lookup.call
        call.served_by, call.origin = CACHE, row.model
        call.attempts.append(Attempt(CACHE, tier))
        call.notes |= {
            "Cache": tier,
            "Cache_Model": row.model,
            "Cache_Age": f"{max(0.0, lookup.at - row.created_at):.0f}",
            "Cache_Saved": dollars(row.nanos),
        }
        if tier == "semantic" and lookup.compared is not None and lookup.compared.candidate:
            call.notes["Cache_Similarity"] = f"{lookup.compared.candidate.similarity:.4f}"
        self.shelf.used(row)
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
        """Count what a model's answer took, learn from it, and keep it where it is worth it."""
        call = lookup.call
        cost = sum(each.nanos for each in call.spent[before:])
        self._counting.result(lookup.namespace, "miss", time.perf_counter() - lookup.began)
        self._counting.spent(lookup.namespace, cost)
        if not keeps(call.request, whole) or not call.served_by:
            return
        if self._semantic is not None and lookup.compared is not None:
            self._semantic.told(lookup.compared, lookup.prompt, whole)
        data = orjson.dumps(whole)
        if lookup.wish.write and not lookup.is_kept and len(data) <= LARGEST_ANSWER:
            row = self._row(lookup, whole, data, cost)
            if self.shelf.keep(row):
                self._counting.stored(row.namespace)

    def _row(self, lookup: Lookup, whole: Json, data: bytes, cost: int) -> AnswerRow:
        usage = whole.get("usage") or {}
        own = lookup.call.served_by == lookup.model and not calls_tools(whole)
        near = lookup.compared if own else None
        return AnswerRow(
            id=secrets.token_hex(16),
            namespace=lookup.namespace,
            model=lookup.call.served_by,
            prompt_hash=lookup.prompt,
            scope=near.scope if near else "",
            text=near.prompt.text if near else "",
            answer=data,
            nanos=cost,
            prompt_tokens=_whole(usage.get("prompt_tokens")),
            completion_tokens=_whole(usage.get("completion_tokens")),
            created_at=lookup.at,
            expires_at=lookup.at + self._settings.ttl_seconds,
            tags=lookup.tags,
            embedding=near.prompt.vector.tobytes() if near else b"",
            packed=near.prompt.packed() if near else b"",
        )


def _whole(value: object) -> int:
    return min(max(value, 0), _LARGEST) if isinstance(value, int) else 0
