"""Streams that break off after their beginning: what the caller is told, what is paid, and who waits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import run_async
from tests.integration.test_budgets import AGENT, bank, entry
from tests.integration.test_outages import service
from tests.providers import Json, provider

ASK: Json = {"messages": [{"role": "user", "content": "go on"}], "stream": True}
WHOLE = {"X-Seedbed-Stream": "whole"}
SAYS = "one two three four"


def events(text: str) -> list[Json]:
    """What a stream of events says, without its end."""
    *found, end = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert end == "[DONE]"
    return [json.loads(each) for each in found]


def said(found: list[Json]) -> str:
    choices = [choice for each in found for choice in each.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.req("COG-7.1.1")
@pytest.mark.req("COG-3.4.1")
@pytest.mark.parametrize("breaks", ["stream", "event", "noise"])
def test_a_broken_stream_ends_with_an_error_in_openais_form_and_its_money_is_settled(
    breaks: str, tmp_path: Path
) -> None:
    """What was said stays said: another model's answer behind it would be half of each."""

    async def body() -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        async with (
            provider(breaks=breaks, say=lambda _: SAYS) as fake,
            provider(say=lambda _: "the second") as second,
            bank(url, entry(fake, "1000"), entry(second, "1000", "other")) as money,
        ):
            await money.set_budget("0.50", haltAt=100, alertAt=99)
            ask = ASK | {"model": "big", "max_tokens": 100}
            path = "/v1/chat/completions"
            async with money.session.post(path, json=ask, headers=AGENT) as answer:
                assert answer.status == 200
                *before, last = events(await answer.text())
            assert said(before) == "one two"
            error = last["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert (error["type"], error["param"]) == ("server_error", None)
            assert error["code"] in ("provider_malformed", "unavailable")
            assert not second.seen, "nobody repeats what was said"
            # Nobody knows what the provider counts: all that it may have read, and what was heard.
            spent = await money.spent()
            prompt, _ = fake.billed[0]
            assert spent >= prompt * 1_000_000
            assert spent < 100 * 1_000_000, "not the longest answer there could have been"
            # The rest of what was reserved is free again: so much that it would not do otherwise.
            fake.breaks = ""
            status, _ = await money.chat(max_tokens=350)
            assert status == 200

    run_async(body())


@pytest.mark.req("COG-7.1.1")
@pytest.mark.parametrize("breaks", ["json", "empty", "drop"])
def test_a_stream_that_may_come_whole_moves_to_another_model_until_its_very_end(
    breaks: str,
) -> None:
    async def body() -> None:
        async with (
            provider(breaks=breaks, say=lambda _: SAYS) as first,
            provider(say=lambda _: "the second one says it all") as second,
            service(first=(first, {"retries": 0}), second=(second, {})) as one,
        ):
            options = {"stream_options": {"include_usage": True}}
            ask = ASK | options | {"model": "first"}
            path = "/v1/chat/completions"
            async with one.session.post(path, json=ask, headers=WHOLE) as answer:
                assert answer.status == 200
                assert answer.headers["Content-Type"].startswith("text/event-stream")
                assert answer.headers["X-Seedbed-Model"] == "second"
                found = events(await answer.text())
            assert said(found) == "the second one says it all"
            assert {each["object"] for each in found} == {"chat.completion.chunk"}
            assert found[-1]["usage"]["completion_tokens"] == 6
            assert found[-1]["seedbed"]["model"] == "second"
            assert [body.get("stream") for body in (*first.seen, *second.seen)] == [None, None]

    run_async(body())


def test_where_no_model_answers_a_stream_that_comes_whole_is_an_ordinary_error() -> None:
    async def body() -> None:
        async with (
            provider(breaks="json") as first,
            service(first=(first, {"retries": 0})) as one,
        ):
            ask, path = ASK | {"model": "first"}, "/v1/chat/completions"
            async with one.session.post(path, json=ask, headers=WHOLE) as answer:
                assert answer.status == 502
                assert (await answer.json())["error"]["code"] == "provider_malformed"
            for more, headers, param in (
                ({}, {"X-Seedbed-Stream": "half"}, "X-Seedbed-Stream"),
                ({"n": 2}, WHOLE, "n"),
            ):
                async with one.session.post(path, json=ask | more, headers=headers) as answer:
                    assert answer.status == 400
                    assert (await answer.json())["error"]["param"] == param

    run_async(body())
