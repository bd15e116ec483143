"""The cache's stage: who shares answers, which are kept, for how long, and what the settings allow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.llm.budget.teller import BudgetExceededError
from seedbed.runtime.llm.cache.backing import IN_VAIN, SELDOM, Backing
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.cache.memory import OVERHEAD, Memory
from seedbed.runtime.llm.cache.policy import tags_of
from seedbed.runtime.llm.cache.settings import CacheSettings
from seedbed.runtime.llm.cache.shelf import Shelf
from seedbed.runtime.llm.cache.stage import CacheStage
from seedbed.runtime.llm.cache.stats import (
    CacheSummary,
    class_end,
    percentile,
    summary,
    time_class,
    timed,
)
from seedbed.runtime.llm.cache.streaming import Assembled, pieces
from seedbed.runtime.llm.call import Call, Identity, Reply, Spent
from seedbed.runtime.llm.requests import ChatRequest, parse
from seedbed.runtime.store.answers import AnswerRow, AnswerStore, Selection
from tests.conftest import run_async

Json = dict[str, Any]


def said(text: str | None, finish: str = "stop", **message: Any) -> Json:
    told = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": told, "finish_reason": finish}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return {"id": "c-1", "created": 1, "model": "x", "choices": [choice], "usage": usage}


@dataclass(slots=True)
class Model:
    """What stands behind the stage; every answer is another one."""

    error: SeedbedError | None = None
    answer: Json | None = None
    name: str = ""
    asked: int = 0
    meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def __call__(self, call: Call) -> Reply:
        if self.error is not None:
            raise self.error
        self.asked += 1
        if self.meanwhile is not None:
            await self.meanwhile()
        call.served_by = self.name or call.candidates[0]
        call.spent.append(Spent(call.served_by, 5, 7, 1000))
        whole = self.answer or said(f"answer {self.asked}")
        if getattr(call.request, "stream", False):
            return Reply(chunks=_sent(whole))
        return Reply(whole=whole)


async def _sent(whole: Json) -> AsyncIterator[Json]:
    for chunk in pieces(whole):
        yield chunk


@dataclass(slots=True)
class Cache:
    """A stage with a clock that is turned by hand."""

    settings: Json = field(default_factory=dict)
    model: Model = field(default_factory=Model)
    now: float = 1000.0
    open: frozenset[str] = frozenset()
    counting: Counting = field(default_factory=Counting)
    stage: CacheStage = field(init=False)

    def __post_init__(self) -> None:
        settings = CacheSettings.model_validate({"mode": "on"} | self.settings)
        shelf = Shelf(Memory(settings.entries, settings.memory_mi_b * 2**20), now=lambda: self.now)
        self.stage = CacheStage(
            settings,
            shelf,
            self.counting,
            reachable=lambda name: name not in self.open,
            wall=lambda: self.now,
        )

    async def ask(
        self,
        text: str = "hello",
        headers: dict[str, str] | None = None,
        *,
        namespace: str = "team",
        candidates: tuple[str, ...] = ("m",),
        **fields: Any,
    ) -> tuple[str, str]:
        """What became of a request, and what was answered."""
        messages = [{"role": "user", "content": text}]
        request = parse(ChatRequest, orjson.dumps({"model": "m", "messages": messages} | fields))
        async with AsyncExitStack() as closing:
            call = Call(request, Identity(namespace), 1e9, closing, candidates)
            call.headers = headers or {}
            reply = await self.stage(call, self.model)
            whole = reply.whole
            if reply.chunks is not None:
                told = Assembled()
                async for chunk in reply.chunks:
                    told.add(chunk)
                whole = told.whole()
        assert whole is not None
        message = whole["choices"][0]["message"]
        calls = message.get("tool_calls") or [{"id": ""}]
        return call.notes["Cache"], message["content"] or calls[0]["id"]

    def told(self) -> CacheSummary:
        return summary({name: amount for (_, name), amount in self.counting.take().items()})


@pytest.mark.req("COG-5.1.2")
def test_answers_never_cross_namespaces_or_models() -> None:
    async def body() -> None:
        cache = Cache()
        assert await cache.ask() == ("miss", "answer 1")
        assert await cache.ask() == ("exact", "answer 1")
        assert await cache.ask(namespace="other") == ("miss", "answer 2")
        assert await cache.ask(candidates=("big",)) == ("miss", "answer 3")
        assert await cache.ask(namespace="other") == ("exact", "answer 2")
        assert await cache.ask(candidates=("big", "m")) == ("exact", "answer 3")
        assert cache.model.asked == 3

    run_async(body())


def test_an_answer_belongs_to_the_model_that_gave_it() -> None:
    async def body() -> None:
        cache = Cache()
        cache.model.name = "other"
        assert await cache.ask(candidates=("m", "other")) == ("miss", "answer 1")
        cache.now += 1
        assert (await cache.ask(candidates=("m", "other")))[0] == "miss"
        assert await cache.ask(candidates=("other",)) == ("exact", "answer 2")
        cache.open = frozenset({"m"})
        assert await cache.ask(candidates=("m", "other")) == ("exact", "answer 2")

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_while_it_is_built_it_keeps_answers_and_never_serves_them() -> None:
    async def body() -> None:
        cache = Cache({"mode": "build"})
        assert await cache.ask() == ("miss", "answer 1")
        assert await cache.ask() == ("withheld", "answer 2")
        cache.model.error = UnavailableError("down")
        with pytest.raises(UnavailableError):
            await cache.ask()
        found = cache.told()
        assert (found["stored"], found["misses"], found["exact_hits"]) == (1, 2, 0)
        assert found["withheld"]["exact"] == 2

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_a_part_of_the_traffic_is_served_the_same_part_each_time() -> None:
    async def body() -> None:
        cache = Cache({"traffic": 10})
        texts = [str(number) for number in range(300)]
        for text in texts:
            await cache.ask(text)
        served = [text for text in texts if (await cache.ask(text))[0] == "exact"]
        assert 0.04 < len(served) / len(texts) < 0.18
        assert served == [text for text in texts if (await cache.ask(text))[0] == "exact"]

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_a_feature_flag_decides_what_is_served_where_a_namespace_has_it() -> None:
    async def body() -> None:
        cache = Cache({"traffic": 100, "flag": "cached-answers"})
        on: dict[str, bool] = {}
        cache.stage._flagged = lambda space, name, _: on.get(f"{space}/{name}")
        await cache.ask()
        assert (await cache.ask())[0] == "exact", "without the flag the traffic decides"
        on["team/cached-answers"] = False
        assert (await cache.ask())[0] == "withheld"
        assert (await cache.ask(namespace="other"))[0] == "miss"
        assert (await cache.ask(namespace="other"))[0] == "exact"
        on["team/cached-answers"] = True
        assert (await cache.ask())[0] == "exact"

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_a_caller_may_opt_out() -> None:
    async def body() -> None:
        cache, header = Cache(), "X-Seedbed-Cache"
        assert await cache.ask(headers={header: "bypass"}) == ("bypass", "answer 1")
        assert await cache.ask(headers={header: "no-store"}) == ("miss", "answer 2")
        assert await cache.ask() == ("miss", "answer 3")
        assert await cache.ask(headers={header: "bypass"}) == ("bypass", "answer 4")
        assert await cache.ask(headers={header: "exact"}) == ("exact", "answer 3")
        cache.now += 1
        assert await cache.ask(headers={header: "Refresh"}) == ("miss", "answer 5")
        assert await cache.ask() == ("exact", "answer 5")
        with pytest.raises(InvalidError, match="X-Seedbed-Cache"):
            await cache.ask(headers={header: "maybe"})
        assert cache.told()["bypasses"] == 2

    run_async(body())


def test_who_asks_for_variety_gets_it() -> None:
    async def body() -> None:
        cache = Cache()
        for fields in ({"temperature": 0.7}, {"n": 2}, {"logprobs": True}):
            for _ in range(2):
                assert (await cache.ask(**fields))[0] == "bypass"
        for fields in ({}, {"temperature": 0}, {"temperature": 0.7, "seed": 1}):
            assert (await cache.ask(**fields))[0] == "miss"
            assert (await cache.ask(**fields))[0] == "exact"
        cache = Cache({"sampled": True})
        await cache.ask(temperature=0.7)
        assert (await cache.ask(temperature=0.7))[0] == "exact"

    run_async(body())


SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "required": ["x"]}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("answer", "fields", "is_kept"),
    [
        (said("all of it"), {}, True),
        (said("cut o", "length"), {}, False),
        (said("", "content_filter"), {}, False),
        (said("no", refusal="I will not"), {}, False),
        (said("x" * 300_000), {}, False),
        (said('{"x": 1}'), {"response_format": SCHEMA}, True),
        (said('{"y": 1}'), {"response_format": SCHEMA}, False),
        (said(None, "tool_calls", tool_calls=[CALL]), {}, True),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_only_whole_answers_are_kept(
    answer: Json, fields: Json, is_kept: bool, stream: bool
) -> None:
    async def body() -> None:
        cache = Cache(model=Model(answer=answer))
        first = await cache.ask(stream=stream, **fields)
        assert first[0] == "miss"
        again = await cache.ask(stream=not stream, **fields)
        assert again == ("exact" if is_kept else "miss", first[1])

    run_async(body())


def test_an_empty_answer_is_not_kept() -> None:
    async def body() -> None:
        cache = Cache(model=Model(answer=said("")))
        assert [(await cache.ask())[0] for _ in range(2)] == ["miss", "miss"]

    run_async(body())


def test_a_stream_that_breaks_off_is_not_kept() -> None:
    async def broken(whole: Json) -> AsyncIterator[Json]:
        yield next(iter(pieces(whole)))
        raise UnavailableError("it broke off")

    async def rest(call: Call) -> Reply:
        call.served_by = "m"
        return Reply(chunks=broken(said("a long answer")))

    async def body() -> None:
        cache = Cache()
        cache.model = rest  # type: ignore[assignment]  # another model
        with pytest.raises(UnavailableError):
            await cache.ask(stream=True)
        cache.model = Model()
        assert (await cache.ask())[0] == "miss"

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_an_answer_runs_out() -> None:
    async def body() -> None:
        cache = Cache({"ttlSeconds": 60, "staleSeconds": 30})
        assert await cache.ask() == ("miss", "answer 1")
        cache.now += 59
        assert await cache.ask() == ("exact", "answer 1")
        cache.now += 1
        assert await cache.ask() == ("miss", "answer 2")

    run_async(body())


@pytest.mark.req("COG-3.4.2")
@pytest.mark.parametrize(
    "error",
    [UnavailableError("down"), BudgetExceededError("agents/team/reader", 95, 10, 95)],
    ids=["outage", "budget"],
)
def test_where_no_model_may_be_asked_kept_answers_are_served_for_a_while(
    error: SeedbedError,
) -> None:
    async def body() -> None:
        cache = Cache({"ttlSeconds": 60, "staleSeconds": 30})
        await cache.ask()
        cache.model.error = error
        cache.now += 70
        assert await cache.ask() == ("stale", "answer 1")
        with pytest.raises(type(error)):
            await cache.ask("something else")
        cache.now += 20
        with pytest.raises(type(error)):
            await cache.ask()
        assert cache.told()["stale_hits"] == 1

    run_async(body())


def test_in_an_outage_another_candidates_answer_will_do_and_a_wrong_request_stays_wrong() -> None:
    async def body() -> None:
        cache = Cache()
        await cache.ask(candidates=("other",))
        cache.model.error = UnavailableError("down")
        assert await cache.ask(candidates=("m", "other")) == ("stale", "answer 1")
        cache.model.error = InvalidError("temperature", "is wrong")
        with pytest.raises(InvalidError):
            await cache.ask(candidates=("m", "other"))

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_answers_are_forgotten_by_tag_by_model_or_all() -> None:
    async def body() -> None:
        cache, tag = Cache(), "X-Seedbed-Cache-Tags"
        await cache.ask("1", {tag: "docs, v1"})
        await cache.ask("2", {tag: "v1"})
        await cache.ask("3", candidates=("n",))
        await cache.ask("4", namespace="other", headers={tag: "docs"})
        forget = cache.stage.shelf.invalidate
        assert await forget(Selection("team", tag="docs", before=cache.now)) == 1
        cache.now += 1
        assert (await cache.ask("1"))[0] == "miss"
        assert (await cache.ask("2"))[0] == "exact"
        assert (await cache.ask("4", namespace="other"))[0] == "exact"
        assert await forget(Selection("team", model="n", before=cache.now)) == 1
        assert await forget(Selection("team", before=cache.now)) == 2
        cache.now += 1
        assert (await cache.ask("2"))[0] == "miss"

    run_async(body())


def test_an_answer_that_was_on_its_way_is_forgotten_too() -> None:
    async def body() -> None:
        cache = Cache()

        async def forget() -> None:
            cache.now += 5
            await cache.stage.shelf.invalidate(Selection("team", before=cache.now))
            cache.model.meanwhile = None

        cache.model.meanwhile = forget
        await cache.ask()
        cache.now += 1
        assert await cache.ask() == ("miss", "answer 2")
        assert await cache.ask() == ("exact", "answer 2")

    run_async(body())


def test_tags_are_checked() -> None:
    assert tags_of("b, a,,b") == ("a", "b")
    for wrong in ("a b", "ä", "-a", "a" * 65, ",".join(map(str, range(17)))):
        with pytest.raises(InvalidError, match="X-Seedbed-Cache-Tags"):
            tags_of(wrong)


def row(key: str, namespace: str = "team", size: int = 0) -> AnswerRow:
    return AnswerRow(key, namespace, "m", key, "", "", b"x" * size, 0, 0, 0, 0.0, 1.0)


def test_memory_is_bounded_for_each_namespace_and_in_all() -> None:
    dropped: list[str] = []
    memory = Memory(2, 10_000, lambda row: dropped.append(row.id))
    for key in ("a", "b"):
        memory.put(row(key))
    memory.put(row("x", "other"))
    memory.get(row("a").key)
    memory.put(row("c"))
    assert dropped == ["b"], "the one not used for longest, of the same namespace"
    assert not memory.add_oldest(row("d"))
    memory.remove(row("c").key)
    assert memory.add_oldest(row("d"))
    memory.put(row("e"))
    assert dropped == ["b", "c", "d"], "what was read from the store goes first"
    assert memory.size == 3 * OVERHEAD
    memory.put(row("large", "third", 9_000))
    assert [("third" in key) for key in memory._rows] == [True]
    assert memory.size == OVERHEAD + 9_000
    assert len(memory) == 1


@given(st.floats(1e-5, 1000), st.lists(st.floats(1e-4, 100), min_size=1, max_size=50))
def test_times_are_told_to_a_seventh(seconds: float, times: list[float]) -> None:
    assert seconds <= class_end(time_class(seconds)) * 1.0001
    assert class_end(time_class(seconds)) <= seconds * 1.151
    counts: dict[str, float] = {}
    for each in times:
        name = timed("hit", each)
        counts[name] = counts.get(name, 0) + 1
    true = sorted(times)[-(-95 * len(times) // 100) - 1]
    told = percentile(counts, "hit", 0.95)
    assert told is not None
    assert true * 0.999 <= told <= true * 1.151
    assert percentile(counts, "miss", 0.95) is None


@pytest.mark.req("COG-5.1.2")
def test_the_statistics_tell_every_tier_and_hits_and_misses_apart() -> None:
    counts: dict[str, float] = {
        "exact": 40,
        "semantic": 20,
        "stale": 0,
        "miss": 40,
        "bypass": 7,
        "saved_nanos": 2_000_000_000,
        "verified": 50,
        "verified_wrong": 1,
        timed("hit", 0.001): 60,
        timed("miss", 2.0): 40,
    }
    told = summary(counts)
    assert (told["lookups"], told["hit_rate"], told["bypasses"]) == (100, 0.6, 7)
    assert told["saved"]["dollars"] == "2.00"
    assert (told["p95_seconds"]["hits"] or 1) < 0.0012
    assert 2.0 <= (told["p95_seconds"]["misses"] or 0) < 2.31
    wrong = told["wrong_hits"]
    assert (wrong["verified"], wrong["wrong"], wrong["per_hit"]) == (50, 1, 0.02)
    assert wrong["per_lookup"] == 0.004
    assert 0.09 < (wrong["per_hit_at_most"] or 0) < 0.12
    nothing = summary({})
    assert nothing["hit_rate"] is None
    assert nothing["wrong_hits"]["per_hit"] is None


def test_settings_in_yaml_may_say_on_and_off() -> None:
    assert CacheSettings.model_validate({"mode": True, "semantic": False}).mode == "on"
    assert CacheSettings.model_validate({"mode": False}).mode == "off"
    assert CacheSettings().mode == "off"


def test_equal_requests_at_once_do_not_disturb_each_other() -> None:
    async def body() -> None:
        cache = Cache()
        found = await asyncio.gather(*(cache.ask() for _ in range(5)))
        assert {tier for tier, _ in found} <= {"miss", "exact"}
        assert (await cache.ask())[0] == "exact"

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_no_model_is_asked_the_same_twice() -> None:
    """2,000 requests, most of them for the few prompts that everybody has."""

    async def body() -> None:
        cache, chance = Cache(), random.Random(5)
        texts = [f"question {int(chance.paretovariate(0.7))}" for _ in range(2000)]
        answers: dict[str, str] = {}
        for text in texts:
            _, found = await cache.ask(text)
            assert answers.setdefault(text, found) == found
        assert cache.model.asked == len(answers) < 0.4 * len(texts)
        told = cache.told()
        assert told["misses"] == len(answers)
        assert told["exact_hits"] == len(texts) - len(answers)
        assert float(told["saved"]["dollars"]) == told["exact_hits"] * 1000 / 1e9

    run_async(body())


class Counted:
    """A store of another gateway's rows that counts its queries."""

    shared, vectors = True, False

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], AnswerRow] = {}
        self.queries = 0

    async def find(self, keys: Any) -> list[AnswerRow]:
        self.queries += 1
        return [self.rows[key] for key in keys if key in self.rows]

    async def newest(self, *_: Any) -> list[AnswerRow]:
        return []

    async def nothing(self, *_: Any) -> None:
        """What is written does not matter here."""

    put = used = learnt = count = trim = nothing


def test_who_asks_the_store_in_vain_asks_seldom_until_others_add_something() -> None:
    async def body() -> None:
        store = Counted()
        backing = Backing(
            cast("AnswerStore", store), Counting(), entries=9, grace=0, loaded=lambda _: True
        )
        async with backing.running():
            backing.heard_of("team")
            for number in range(IN_VAIN):
                assert await backing.find(("team", "m", str(number))) is None
            assert store.queries == IN_VAIN
            for number in range(10 * SELDOM):
                await backing.find(("team", "m", str(number)))
            assert store.queries == IN_VAIN + 10
            theirs = row("theirs")
            store.rows[theirs.key] = theirs
            found = [await backing.find(theirs.key) for _ in range(SELDOM)]
            assert found.count(theirs) == 1
            assert await backing.find(theirs.key) == theirs

    run_async(body())
