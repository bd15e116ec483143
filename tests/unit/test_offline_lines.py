"""The pure parts of offline batches: lines, money, turns, prices."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from seedbed.cli.main import app
from seedbed.crds.budget import Budget
from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.llm.batch.offline.counting import OfflineMetrics
from seedbed.runtime.llm.batch.offline.form import batch_form, page_form
from seedbed.runtime.llm.batch.offline.lines import (
    CANCELLED,
    LineError,
    Splitter,
    output_line,
    read_line,
    told_by_provider,
)
from seedbed.runtime.llm.batch.offline.money import Held, HeldError, check, entry
from seedbed.runtime.llm.batch.offline.provider_batches import PART, ProviderBatches
from seedbed.runtime.llm.batch.offline.quiet import Quiet
from seedbed.runtime.llm.budget.teller import BudgetExceededError
from seedbed.runtime.llm.call import Identity, Spent
from seedbed.runtime.llm.endpoints import CHAT, COMPLETIONS
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.prices import Price
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import BatchRow, LineRow
from seedbed.runtime.store.ledger import Drawn
from tests.conftest import run_async
from tests.providers import provider

GUIDE = (Path(__file__).resolve().parents[2] / "docs/guides/offline-batches.md").read_text()


def known(name: str) -> str:
    if name != "m":
        raise NotFoundError("model", name)
    return name


def asked(**fields: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": CHAT.path, "body": body}
    return json.dumps({**line, **fields}).encode()


@given(
    st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    st.data(),
)
def test_lines_do_not_depend_on_how_a_file_comes(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    ends = [0, *cuts, len(whole)]
    splitter = Splitter()
    found = [told for start, end in pairwise(ends) for told in splitter.feed(whole[start:end])]
    found += splitter.end()
    assert found == [(at, line) for at, line in enumerate(lines, 1) if line.strip()]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"{", "line"),
        (b"[]", "line"),
        (asked(custom_id=""), "custom_id"),
        (asked(custom_id=7), "custom_id"),
        (asked(method="GET"), "method"),
        (asked(url="/v1/embeddings"), "url"),
        (asked(extra=1), "extra"),
        (asked(body=[]), "body"),
        (asked(body={"model": "m", "messages": []}), "body.messages"),
        (asked(body={**json.loads(asked())["body"], "stream": True}), "body.stream"),
        (asked(body={**json.loads(asked())["body"], "model": "x"}), "body.model"),
    ],
)
def test_a_wrong_line_names_its_field(data: bytes, field: str) -> None:
    with pytest.raises(LineError) as wrong:
        read_line(3, data, CHAT, known)
    told = wrong.value.told()
    assert (told["line"], told["param"]) == (3, field)
    assert told["message"].startswith(f"line 3: {field}: ")


def test_a_line_of_a_batch_has_one_prompt() -> None:
    one, two = (
        asked(url=COMPLETIONS.path, body={"model": "m", "prompt": prompt})
        for prompt in (["hello"], ["hello", "you"])
    )
    assert read_line(1, one, COMPLETIONS, known).request.model == "m"
    with pytest.raises(LineError) as wrong:
        read_line(2, two, COMPLETIONS, known)
    assert (
        wrong.value.told()["message"] == "line 2: body.prompt: must be one text here, not several"
    )


def test_a_line_that_is_right_is_read() -> None:
    found = read_line(3, asked(), CHAT, known)
    assert (found.number, found.custom_id, found.request.model) == (3, "a", "m")


def test_results_have_openais_form() -> None:
    row = LineRow("batch_7", 3, "a", None, b"", "done", status=200, answer=b'{"id": "c"}')
    told = json.loads(output_line(row))
    assert told["custom_id"] == "a"
    assert told["response"] == {"status_code": 200, "request_id": told["id"], "body": {"id": "c"}}
    never = LineRow("batch_7", 3, "a", None, b"", "done", status=CANCELLED)
    told = json.loads(output_line(never))
    assert told["response"] is None
    assert told["error"]["code"] == "batch_cancelled"


def test_what_a_provider_says_is_read_or_left_alone() -> None:
    response = {"status_code": 200, "body": {"id": "c"}}
    found = told_by_provider(orjson.dumps({"custom_id": "3", "response": response}))
    assert found is not None
    assert (found.number, found.status, found.body) == (3, 200, {"id": "c"})
    error = {"custom_id": "3", "response": None, "error": {"code": "batch_expired"}}
    found = told_by_provider(orjson.dumps(error))
    assert found is not None
    assert found.status == 0
    for noise in (b"{", b"[]", b'{"custom_id": "x"}', b'{"response": 1}', b"7", b"null"):
        assert told_by_provider(noise) is None


def test_a_batch_has_openais_form() -> None:
    row = BatchRow(
        *(
            "batch_1",
            "team",
            "",
            "",
            "",
            "",
            CHAT.path,
            "file-1",
            '{"a": "b"}',
            "completed",
            10.0,
            20.0,
        ),
        ended_at=15.0,
        total=3,
        completed=2,
        failed=1,
        nanos=1_000_000,
    )
    told = batch_form(row)
    assert (told["completed_at"], told["failed_at"], told["metadata"]) == (15, None, {"a": "b"})
    assert told["output_file_id"]
    assert told["error_file_id"]
    assert told["seedbed"]["cost_dollars"] == "0.001"
    page = page_form([told, told], 1)
    assert (page["has_more"], page["last_id"]) == (True, told["id"])


def test_a_price_has_its_batch_share() -> None:
    fields = {"name": "m", "provider": "openai", "price": {"prompt": "1", "completion": "2"}}
    half = ModelEntry.model_validate(fields).facts().batch_price
    assert half == Price.per_million("0.5", "1")
    third = ModelEntry.model_validate({**fields, "batchFactor": "0.3"}).facts().batch_price
    assert third == Price.per_million("0.3", "0.6")
    table = ModelEntry(name="m", provider="openai", model="gpt-4o-mini").facts()
    assert table.price is not None
    assert table.batch_price is not None
    assert table.batch_price.prompt == table.price.prompt // 2
    assert Price(3, 3, 1).times(Decimal("0.5")) == Price(2, 2, 1), "rounded up"
    with pytest.raises(ValueError, match="batchApi"):
        ModelEntry(name="m", provider="local", batch_api=True)


@pytest.mark.req("COG-3.4.1")
def test_money_is_held_by_account_and_let_go() -> None:
    budgets = {"namespaces/team": Budget(limit="1.00")}
    held = Held("part", 10, 99.0)
    turn = held.more(budgets, 5, 1.0)
    (draw,) = turn.draws
    assert (draw.need, draw.want, draw.ceiling) == (5, 5, 950_000_000)
    assert turn.holding == {"namespaces/team": 10}
    check(turn, [Drawn(5, 0)])
    with pytest.raises(HeldError):
        check(turn, [Drawn(0, 100)])
    with pytest.raises(BudgetExceededError):
        check(turn, [Drawn(0, 949_999_999)])
    one = entry(Identity("team"), "batch_1", Spent("m", 1, 2, 7), "v", 1.0)
    assert (one.nanos, one.run) == (7, "batch_1")
    settled = held.spend(budgets, Identity("team", agent="a"), [one], 8, 2.0)
    assert settled.costs == {"namespaces/team": 7, "agents/team/a": 7}
    assert settled.holding == {"namespaces/team": 2}


def test_lines_begin_a_few_at_a_time_and_behind_others() -> None:
    async def body() -> None:
        waiting, clock = {"m": 0}, [0.0]
        quiet = Quiet(lambda name: waiting[name], 2, 5.0, lambda: clock[0])
        begun: list[int] = []
        never = asyncio.Event()

        async def line(number: int, until: asyncio.Event) -> None:
            async with quiet.turn("m", never):
                begun.append(number)
                await until.wait()

        async def settled(count: int) -> None:
            async with asyncio.timeout(5):
                while len(begun) < count:
                    await asyncio.sleep(0.01)

        ends = [asyncio.Event() for _ in range(4)]
        async with asyncio.TaskGroup() as tasks:
            for at, end in enumerate(ends):
                tasks.create_task(line(at, end))
            await settled(2)
            waiting["m"] = 1
            ends[0].set()
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert begun == [0, 1], "somebody else waits"
            clock[0] = 6.0
            await settled(3)
            waiting["m"] = 0
            ends[1].set()
            await settled(4)
            assert begun == [0, 1, 2, 3], "in order"
            for end in ends:
                end.set()

    run_async(body())


def test_ones_own_requests_are_nobody_elses() -> None:
    async def body() -> None:
        quiet = Quiet(lambda _: 1, 2, 3600.0, lambda: 0.0)
        quiet.asked("m", 1)
        async with asyncio.timeout(5), quiet.turn("m", asyncio.Event()):
            pass
        quiet.asked("m", -1)
        over = asyncio.Event()
        over.set()
        async with asyncio.timeout(5), quiet.turn("m", over):
            """Who will not ask any more does not wait for others."""

    run_async(body())


def test_a_batch_is_found_among_many_of_a_provider() -> None:
    async def body() -> None:
        async with provider() as fake, AsyncExitStack() as stack:
            model = ModelEntry(name="m", provider="openai", api_base=fake.url)
            asking = ProviderBatches(model)
            await stack.enter_async_context(asking.running())
            first = await asking.make("file", CHAT.path, "part_1")
            for at in range(150):
                await asking.make("file", CHAT.path, f"other_{at}")
            assert fake.batches.made[first.id]["metadata"] == {PART: "part_1"}
            assert await asking.find("part_1", 0.0) == first
            assert await asking.find("part_none", 0.0) is None

    run_async(body())


def test_a_key_that_is_not_set_is_told() -> None:
    model = ModelEntry(name="m", provider="openai", api_base="http://127.0.0.1:1/v1")
    with pytest.raises(InvalidError):
        ProviderBatches(model.model_copy(update={"api_key_env": "SEEDBED_NO_SUCH_KEY"}))


def test_the_guide_speaks_of_what_there_is() -> None:
    registry = CollectorRegistry()
    metrics = OfflineMetrics(registry)
    metrics.stand({"completed": 1}, 0)
    metrics.answered([LineResult(1, "provider", 200, b"", saved=5), LineResult(2, "", 598, b"")])
    measured = {sample.name for one in registry.collect() for sample in one.samples}
    told = set(re.findall(r"`(seedbed_model_offline_\w+)`", GUIDE))
    assert told
    assert told <= measured
    lines = re.findall(r"^(?:\$ )?seedbed (batches .*)$", GUIDE, re.MULTILINE)
    assert lines
    for line in lines:
        words = line.split()
        shown = CliRunner().invoke(app, [*words[:2], "--help"])
        assert shown.exit_code == 0
        assert all(word in shown.output for word in words[2:] if word.startswith("--"))
