"""Which requests are equal to the cache: whatever may change an answer changes the key, nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.runtime.llm.cache.key import bucket, canonical, prompt_hash
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, parse

Json = dict[str, Any]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
TEXT = st.text(min_size=1, max_size=20)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT}),
    min_size=1,
    max_size=4,
)
TOOLS = st.lists(st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), min_size=1, max_size=2)
REQUESTS = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": MESSAGES},
    optional={
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.sampled_from([0.5, 1]),
        "max_tokens": st.integers(1, 5),
        "seed": st.integers(0, 5),
        "stop": st.lists(TEXT, min_size=1, max_size=2),
        "presence_penalty": st.sampled_from([-1, 1]),
        "response_format": st.dictionaries(TEXT, VALUES, min_size=1, max_size=3),
        "tools": TOOLS,
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "parallel_tool_calls": st.booleans(),
    },
)


def key(body: Json) -> str:
    return prompt_hash(parse(ChatRequest, orjson.dumps(body)))


def turned(value: Any) -> Any:
    """The same value, the keys of its objects in the opposite order."""
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(value)}
    return [turned(each) for each in value] if isinstance(value, list) else value


@given(REQUESTS)
def test_the_order_of_keys_does_not_count(body: Json) -> None:
    assert key(turned(body)) == key(body)
    assert len(key(body)) == 64


@given(REQUESTS, st.text(max_size=5), st.booleans())
def test_who_asks_and_how_does_not_count(body: Json, user: str, usage: bool) -> None:
    other = body | {
        "model": "another name",
        "user": user,
        "stream": True,
        "stream_options": {"include_usage": usage},
        "metadata": {"run": user},
    }
    assert key(other) == key(body)


@given(REQUESTS, REQUESTS)
def test_keys_are_equal_only_where_the_requests_are(one: Json, other: Json) -> None:
    def plain(body: Json) -> Any:
        fields = parse(ChatRequest, orjson.dumps(body)).parameters()
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)

    assert (key(one) == key(other)) == (plain(one) == plain(other))


BASE: Json = {
    "model": "m",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": 1},
        {"top_p": 0.9},
        {"max_tokens": 1},
        {"seed": 1},
        {"stop": "x"},
        {"frequency_penalty": 1},
        {"presence_penalty": 1},
        {"logit_bias": {"1": 2}},
        {"reasoning_effort": "low"},
        {"response_format": {"type": "json_object"}},
        {"tool_choice": "none"},
        {"parallel_tool_calls": False},
        {"tools": [{"type": "function", "function": {"name": "g", "parameters": {"a": 1}}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 2}}}]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "U"}]},
        {"messages": [{"role": "system", "content": "s "}, {"role": "user", "content": "u"}]},
        {"messages": [{"role": "user", "content": "s"}, {"role": "user", "content": "u"}]},
        {"messages": [{"role": "user", "content": "u"}, {"role": "system", "content": "s"}]},
        {"messages": [*BASE["messages"], {"role": "user", "content": "u"}]},
        {"messages": [BASE["messages"][0], {"role": "user", "content": "u", "name": "n"}]},
    ],
    ids=str,
)
def test_what_may_change_the_answer_changes_the_key(change: Json) -> None:
    assert key(BASE | change) != key(BASE)


def test_forms_of_one_meaning_are_equal() -> None:
    assert key(BASE | {"stop": "x"}) == key(BASE | {"stop": ["x"]})
    assert key(BASE | {"max_tokens": 5}) == key(BASE | {"max_completion_tokens": 5})
    assert key(BASE | {"temperature": 0}) == key(BASE | {"temperature": 0.0})
    parts = [{"role": "user", "content": [{"type": "text", "text": "u"}]}]
    assert key(BASE | {"messages": parts}) == key(
        BASE | {"messages": [{"role": "user", "content": "u"}]}
    )


def test_ids_of_tool_calls_count_by_their_place() -> None:
    def talk(first: str, second: str, answers: str) -> str:
        calls = [
            {"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}}
            for each in (first, second)
        ]
        said = {"role": "assistant", "content": None, "tool_calls": calls}
        result = {"role": "tool", "content": "7", "tool_call_id": answers}
        return key(BASE | {"messages": [*BASE["messages"], said, result]})

    assert talk("call_a", "call_b", "call_a") == talk("x", "y", "x")
    assert talk("call_a", "call_b", "call_a") != talk("x", "y", "y")


def test_a_chat_and_an_embedding_never_share_a_key() -> None:
    embedding = EmbeddingRequest.model_validate({"model": "m", "input": "u"})
    chat = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "u"}]}
    )
    assert prompt_hash(embedding) != prompt_hash(chat)
    assert canonical(embedding) == canonical(embedding.model_copy(update={"user": "me"}))
    assert canonical(embedding) != canonical(embedding.model_copy(update={"dimensions": 8}))


@pytest.mark.req("COG-5.1.2")
def test_the_share_of_traffic_is_the_same_requests_each_time() -> None:
    prompts = [key(BASE | {"seed": number}) for number in range(2000)]
    served = {prompt for prompt in prompts if bucket(prompt) < 10}
    assert 0.07 < len(served) / len(prompts) < 0.13
    assert served == {prompt for prompt in prompts if bucket(prompt) < 10}
    assert served <= {prompt for prompt in prompts if bucket(prompt) < 50}
    assert all(0 <= bucket(prompt) < 100 for prompt in prompts)
