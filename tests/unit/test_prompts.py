"""Prompts that repeat: patterns, duplicates, constant beginnings, and what cached tokens cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.prices import Price, known
from seedbed.runtime.llm.prompts.compress import Vectors, compressed, likeness
from seedbed.runtime.llm.prompts.duplicates import without_duplicates
from seedbed.runtime.llm.prompts.miner import LONGEST, PARAGRAPHS, SEEN, Miner
from seedbed.runtime.llm.prompts.prefix import constant_first, sorted_tools
from seedbed.runtime.llm.prompts.settings import Compression
from seedbed.runtime.llm.requests import ChatMessage, Json
from tests.conftest import run_async
from tests.providers import provider
from tests.unit.test_collapse import Asking, service

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ru", "te", "vo", "za") for b in "bdfgklmnprst"]
LONG = "The committee met on the first floor and spoke at length about the new library. " * 5


def user(content: str, role: str = "user") -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content})


def sentence(chance: random.Random, count: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(count))


@pytest.mark.req("COG-5.4.1")
def test_a_hundred_templates_are_told_apart_and_their_slots_are_found() -> None:
    chance = random.Random(1)
    templates = [(sentence(chance, 12), sentence(chance, 9)) for _ in range(110)]
    miner = Miner()
    found: dict[int, set[str]] = {}
    for number in range(110 * 12):
        which = number % 110
        begin, end = templates[which]
        value = sentence(chance, chance.randint(1, 30))
        match = miner.learn(f"{begin} {value} {end} order {number}")
        if number >= 110 * 8:
            assert match.pattern is not None
            assert match.prefix == 12
            assert match.constant >= 12 + 9
            found.setdefault(which, set()).add(match.pattern.name)
    assert all(len(names) == 1 for names in found.values()), "one pattern a template"
    assert len({name for names in found.values() for name in names}) == 110
    shown = next(iter(miner.patterns.values())).text
    assert shown.count("{}") == 2, shown


def test_what_comes_once_is_no_pattern_and_memory_is_bounded() -> None:
    chance = random.Random(2)
    miner = Miner(runs=500, most=20)
    for _ in range(300):
        assert miner.learn(sentence(chance, 40)).pattern is None
    for number in range(60):
        fixed = sentence(chance, 20)
        for _ in range(SEEN + 1):
            miner.learn(f"{fixed} number {number}")
    assert len(miner.patterns) == 20
    assert len(miner._young) + len(miner._old) <= 600
    assert len(miner._index) <= 20 * 24


def test_long_paragraphs_that_are_always_the_same_do_not_hide_what_is_asked() -> None:
    chance = random.Random(3)
    miner = Miner()
    long, begin = sentence(chance, 3000), sentence(chance, 12)
    for number in range(20):
        *_, asked = miner.read([long, f"{begin} item {number}"])
    assert miner.is_constant(long)
    assert asked.prefix >= 12


@pytest.mark.req("COG-5.4.1")
def test_of_a_prompt_of_any_size_only_so_much_is_read() -> None:
    """Others wait for a match: words, paragraphs and characters are bounded, and so is each word."""
    chance = random.Random(5)
    miner = Miner()
    known = [sentence(chance, 20) for _ in range(10)]
    for _ in range(SEEN + 2):
        miner.read([*known, sentence(chance, 3 * LONGEST)])
    before = len(miner._young)
    found = miner.read([*known, sentence(chance, 50 * LONGEST), *["a b c d"] * 5 * PARAGRAPHS])
    assert len(found) == 11 + 5 * PARAGRAPHS
    assert sum(match.words for match in found) <= LONGEST + 10 * 20 + PARAGRAPHS * 4
    assert len(miner._young) - before <= LONGEST
    assert all(match.constant == match.words for match in found[:10]), "what is known is known"
    assert not any(match.words for match in found[PARAGRAPHS:])
    # A word that a pattern of regular expressions would try in a million ways.
    assert miner.read(["x" * 20_000 + "1" + "y" * 20_000])[0].words == 1


@pytest.mark.req("COG-5.4.1")
def test_what_stands_twice_is_sent_once() -> None:
    given_messages = (
        user(f"be brief\n\n{LONG}", "system"),
        user(f"Look at this.\n\n{LONG}\n\nAnd this."),
        user("said", "assistant"),
        user(LONG, "tool"),
        user(f"{LONG}\n\nWhat does it say?"),
    )
    found = without_duplicates(given_messages, 100)
    first, second, _, tool, last = (message.content or "" for message in found.messages)
    assert first.endswith(LONG), "instructions stay as they are"
    assert second.startswith("Look at this.\n\n[Repeated: the text above that begins")
    assert second.endswith("\n\nAnd this.")
    assert tool.startswith("[Repeated:")
    assert last.endswith("What does it say?")
    assert LONG.strip() not in second + tool + last
    before = sum(len(message.content or "") for message in given_messages)
    assert found.saved == before - sum(len(m.content or "") for m in found.messages)


def test_short_texts_and_the_last_word_stay() -> None:
    twice = (user("yes, go on"), user("yes, go on"))
    assert without_duplicates(twice, 100).messages == twice
    again = (user(LONG), user("hm", "assistant"), user(LONG))
    assert without_duplicates(again, 100).messages == again, "the last message is what is wanted"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["system", "user", "assistant", "tool"]),
            st.lists(st.sampled_from(["a b", "c" * 30, "d\ne" * 9, "", "  "]), max_size=5),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_nothing_that_stands_once_is_lost(shape: list[tuple[str, list[str]]]) -> None:
    messages = tuple(user("\n\n".join(blocks), role) for role, blocks in shape)
    found = without_duplicates(messages, 10)
    whole = "\n".join(message.content or "" for message in found.messages)
    for message in messages:
        for block in (message.content or "").split("\n\n"):
            assert block.strip() in whole
    assert found.saved >= 0
    for before, after in zip(messages, found.messages, strict=True):
        assert before == after or before.role in ("user", "tool")


def test_constant_paragraphs_move_first_and_tools_are_sorted() -> None:
    fixed = ("Answer in one line, in plain words.", "Name the law that you rely on.")
    messages = (user("Today is Monday.\n\n" + "\n\n".join(fixed), "system"), user("hello"))
    moved = constant_first(messages, lambda block: block in fixed)
    assert moved[0].content == "\n\n".join([*fixed, "Today is Monday."])
    assert moved[1] is messages[1]
    kept = (user("\n\n".join(fixed) + "\n\nToday is Monday.", "system"),)
    assert constant_first(kept, lambda block: block in fixed) == kept
    tools: list[Json] = [{"type": "function", "function": {"name": name}} for name in "bca"]
    names = [tool["function"]["name"] for tool in sorted_tools(tuple(tools))]
    assert names == ["a", "b", "c"]


@dataclass(frozen=True)
class _Embedded:
    vector: Vectors


class _ByLetters:
    """Texts as counts of their letters."""

    async def embed(self, texts: Sequence[str]) -> list[_Embedded]:
        rows = [[text.lower().count(chr(97 + at)) + 0.01 for at in range(26)] for text in texts]
        return [_Embedded((np.array(row) / np.linalg.norm(row)).astype(np.float32)) for row in rows]


def test_compression_keeps_what_counts_and_stops_at_the_floor() -> None:
    async def body() -> None:
        filler = "The weather was pleasant and everybody enjoyed the garden. " * 12
        text = f"{filler}The fee is 40 dollars. It must not be paid in cash. {filler}"
        messages = (user(f"{text}\n\nWhat is the fee?"),)
        settings = Compression(similarity_floor=0.6, from_bytes=500, keep=0.3)
        found = await compressed(messages, settings, _ByLetters())
        content = found.messages[0].content or ""
        assert found.saved > 500
        assert found.similarity >= 0.6
        assert "The fee is 40 dollars." in content
        assert "It must not be paid in cash." in content
        assert content.endswith("What is the fee?")
        strict = Compression(similarity_floor=1.0, from_bytes=500, keep=0.1)
        mixed = "".join(f"{word} {word} again and again. " for word in WORDS)
        unchanged = (user(f"{mixed}\n\nWhat?"),)
        assert (await compressed(unchanged, strict, _ByLetters())).messages == unchanged

    run_async(body())


def test_likeness_is_one_where_all_stay() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert likeness(vectors, range(4)) == pytest.approx(1)
    assert likeness(vectors, [0]) == pytest.approx(0.5)


@pytest.mark.req("COG-5.4.1")
def test_cached_tokens_cost_what_the_provider_takes_for_them() -> None:
    price = Price.per_million("2", "8", "0.5", "2.5")
    assert price.of(1000, 0) == 2_000_000
    assert price.of(1000, 0, cached=600) == 400 * 2000 + 600 * 500
    assert price.of(1000, 0, kept=1000) == 2_500_000 == price.worst(1000, 0)
    assert Price.per_million("2", "8").of(1000, 10, cached=600) == 2_080_000
    table = known("gpt-4o-mini").price
    assert table is not None
    assert table.cached is not None
    assert table.cached < table.prompt


@pytest.mark.req("COG-5.4.1")
def test_the_service_sends_less_and_bills_cached_tokens() -> None:
    async def body() -> None:
        price = {"prompt": "1", "completion": "2", "cachedPrompt": "0.1"}
        async with (
            provider(cached=5) as fake,
            service(fake, price=price, promptCache="key") as session,
        ):
            ask = Asking(session)
            repeated = [
                {"role": "user", "content": f"Here it is.\n\n{LONG}"},
                {"role": "assistant", "content": "yes"},
                {"role": "user", "content": f"{LONG}\n\nWhat is it?"},
            ]
            status, answer, headers = await ask.whole({"messages": repeated})
            assert status == 200
            assert int(headers["X-Seedbed-Prompt-Saved"]) > 250
            assert "[Repeated:" in fake.seen[0]["messages"][2]["content"]
            tokens = answer["usage"]["prompt_tokens"]
            assert float(headers["X-Seedbed-Cost"]) == pytest.approx(
                ((tokens - 5) * 1 + 5 * 0.1 + 2 * 2) / 10**6, abs=1e-6
            )
            assert await ask.metric('seedbed_model_tokens_total{direction="cached",model="m"}') == 5
            await ask.whole({"messages": repeated}, Prompts="as-is")
            assert fake.seen[1]["messages"] == repeated
            status, answer, _ = await ask.whole({"messages": repeated}, Prompts="maybe")
            assert (status, answer["error"]["param"]) == (400, "X-Seedbed-Prompts")

    run_async(body())


@pytest.mark.req("COG-5.4.1")
def test_prompts_that_begin_alike_carry_one_key_and_are_listed() -> None:
    async def body() -> None:
        begin = "You read contracts and name the clause that decides the question below, briefly."
        async with provider() as fake, service(fake, promptCache="key") as session:
            ask = Asking(session)
            for number in range(8):
                text = f"{begin} Case {number}{number}: who pays for item {number}?"
                messages = [{"role": "user", "content": text}]
                await ask.whole({"messages": messages})
                if number < 2:
                    await ask.whole({"messages": messages}, Namespace="other")
            keys = [each.get("prompt_cache_key") for each in fake.seen]
            assert keys[0] is None
            assert keys[-1] == keys[-2] is not None
            async with session.get("/api/v3/prompts/patterns") as answer:
                (pattern,) = (await answer.json())["patterns"]
            assert pattern["text"].startswith(begin)
            assert "{}" in pattern["text"]
            other = {"X-Seedbed-Namespace": "other"}
            async with session.get("/api/v3/prompts/patterns", headers=other) as answer:
                assert (await answer.json())["patterns"] == []

    run_async(body())


def test_each_kind_of_prompt_cache_has_its_providers() -> None:
    with pytest.raises(ValueError, match="is not for openai"):
        ModelEntry(name="m", provider="openai", prompt_cache="marks")
    assert ModelEntry(name="m", provider="litellm", prompt_cache="marks").prompt_cache == "marks"
