"""What routing learns of single answers, keeps, and forgets not; and what it asks for as money runs out."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.spending import namespace_account
from seedbed.runtime.llm.budget.limits import Limits
from seedbed.runtime.llm.budget.purse import Purse
from seedbed.runtime.llm.budget.stage import BudgetStage
from seedbed.runtime.llm.budget.teller import Teller
from seedbed.runtime.llm.call import Identity
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.routing.fitting import ENOUGH, Example, fit
from seedbed.runtime.llm.routing.learning import Learning
from seedbed.runtime.llm.routing.marks import NAMES, as_bytes, marks, packed, unpacked
from seedbed.runtime.llm.routing.predictor import Predictor
from seedbed.runtime.llm.routing.router import Wanted, route
from seedbed.runtime.llm.service import serving
from seedbed.runtime.store.outcomes import OutcomeRow, SqlOutcomes
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

PLAIN, TRICKY = "Which river is the longest?", "Which of these is NOT a river?"


@given(st.text(max_size=3000))
def test_marks_of_any_text_are_numbers_that_travel_unchanged(text: str) -> None:
    found = marks(text)
    assert len(found) == len(NAMES)
    assert np.isfinite(found).all()
    assert np.array_equal(unpacked(packed(found)), found)


@pytest.mark.parametrize("text", ["", "?", "AAAA", "not base64!"])
def test_marks_that_no_answer_told_are_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="marks"):
        unpacked(text)


def answers(count: int, seed: int) -> list[tuple[str, str, bool, bool]]:
    """Task, text, and whether a weak and a strong model were right; tricky texts only the strong is."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        task, text = chance.choice(["easy", "hard"]), chance.choice([PLAIN, TRICKY])
        weak = 0.9 - 0.2 * (task == "hard") - 0.5 * (text == TRICKY)
        found.append((task, text, chance.random() < weak, chance.random() < 0.92))
    return found


def learnt(seed: int = 1) -> Predictor:
    known = answers(2000, seed)
    weak = fit([Example(task, marks(text), float(good)) for task, text, good, _ in known])
    strong = fit([Example(task, marks(text), float(good)) for task, text, _, good in known])
    return Predictor((), {}, {"weak": weak, "strong": strong})


@pytest.mark.req("COG-5.3.1")
def test_what_is_fitted_is_calibrated_on_answers_it_has_not_seen() -> None:
    predictor = learnt()
    for task in ("easy", "hard"):
        for text in (PLAIN, TRICKY):
            seen = [good for t, x, good, _ in answers(4000, 2) if (t, x) == (task, text)]
            found = predictor.of(task, "weak", 0, marks(text)).quality
            assert found == pytest.approx(sum(seen) / len(seen), abs=0.06)
    nobody = predictor.of("unheard of", "weak", 0, marks(PLAIN)).quality
    assert 0.7 < nobody < 0.9, "a new task is predicted from its texts"


@pytest.mark.req("COG-5.3.1")
def test_the_loss_allowed_decides_what_the_dear_model_is_for() -> None:
    predictor, costs = learnt(), {"weak": 1, "strong": 20}
    reasons = {}
    for text in (PLAIN, TRICKY):
        wanted = Wanted("easy", 0, 1.0, 0.1, marks(text))
        found = route(costs, predictor, wanted, explore=0, chance=1)
        reasons[text] = (found.order[0], found.reason)
    assert reasons == {PLAIN: ("weak", "near_the_best"), TRICKY: ("strong", "best_there_is")}


@asynccontextmanager
async def outcomes(folder: Path) -> AsyncIterator[SqlOutcomes]:
    store = SqlStore.open(f"sqlite:///{folder / 'store'}")
    await store.migrate()
    try:
        yield SqlOutcomes(store)
    finally:
        await store.close()


@pytest.mark.req("COG-5.3.1")
def test_what_was_learnt_outlives_a_restart_and_stays_in_its_namespace(tmp_path: Path) -> None:
    async def body() -> None:
        async with outcomes(tmp_path) as store:
            first = Learning({})
            async with first.following(store):
                for at in range(ENOUGH):
                    text = (PLAIN, TRICKY)[at % 2]
                    row = OutcomeRow("team", "t", "weak", 0, 1.0, float(text == PLAIN))
                    await first.add(row, as_bytes(marks(text)))
        async with outcomes(tmp_path) as store:
            second = Learning({})
            async with second.following(store):
                await second.look()
                known, others = second.of("team"), second.of("other")
        plain, tricky = (known.of("t", "weak", 0, marks(text)).quality for text in (PLAIN, TRICKY))
        assert plain > tricky + 0.4
        assert others.of("t", "weak", 0, marks(PLAIN)) == others.of("t", "weak", 0, marks(TRICKY))

    run_async(body())


def test_the_oldest_answers_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedbed.runtime.store.outcomes.MOST_ANSWERS", 3)

    async def body() -> None:
        async with outcomes(tmp_path) as store:
            for at in range(3):
                await store.add(OutcomeRow("team", "t", f"m{at}", 0, 1.0, 1.0), b"x")
            await store.trim()
            assert [row.model for row in await store.judged(0)] == ["m0", "m1", "m2"]
            await store.add(OutcomeRow("team", "t", "m3", 0, 1.0, 1.0), b"x")
            await store.trim()
            assert [row.model for row in await store.judged(0)] == ["m1", "m2", "m3"]

    run_async(body())


def two_models(fake: FakeProvider, **routing: object) -> Models:
    def entry(name: str, dollars: str, quality: float) -> Json:
        price = {"prompt": dollars, "completion": dollars}
        given = {"name": name, "provider": "openai", "model": name, "apiBase": fake.url}
        return {**given, "price": price, "quality": quality}

    entries = [entry("big", "10", 0.95), entry("small", "1", 0.75)]
    return Models.model_validate(
        {"models": entries, "default": "big", "routing": {"explore": 0, **routing}}
    )


@pytest.mark.req("COG-5.3.1")
def test_an_answer_tells_the_marks_that_its_outcome_is_told_with(tmp_path: Path) -> None:
    async def body() -> None:
        async with outcomes(tmp_path) as store, provider() as fake:
            models = two_models(fake, floor=0.7)
            gateway = Gateway(models)
            async with (
                gateway.learning.following(store),
                serving(models, "127.0.0.1", 0, gateway=gateway) as port,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            ):
                ask = {"model": "auto", "messages": [{"role": "user", "content": TRICKY}]}
                async with session.post("/v1/chat/completions", json=ask) as answer:
                    told = (await answer.json())["seedbed"]
                outcome = {
                    "task": told["task"],
                    "model": told["model"],
                    "hardness": int(told["hardness"]),
                    "good": 1,
                    "marks": told["marks"],
                }
                async with session.post("/api/v3/outcomes", json=outcome) as answer:
                    assert answer.status == 201
                async with session.post(
                    "/api/v3/outcomes", json={**outcome, "marks": "AAAA"}
                ) as answer:
                    assert answer.status == 400
                    assert "marks" in (await answer.json())["error"]["message"]
                (row,) = await store.judged(0)
                assert (row.model, row.good) == ("small", 1.0)
                assert packed(marks(TRICKY)) == told["marks"]

    run_async(body())


@pytest.mark.parametrize(
    ("dollars", "short"), [(0.0, 0.0), (0.79, 0.0), (0.80, 0.0), (0.86, 0.4), (0.95, 1.0), (2, 1.0)]
)
def test_money_is_short_between_the_alert_and_the_halt(
    dollars: float, short: float, tmp_path: Path
) -> None:
    async def body() -> None:
        models = Models.model_validate(
            {"models": [{"name": "m"}], "default": "m", "budgets": {"team": {"limit": "1.00"}}}
        )
        limits = Limits(models.budgets)
        store = SqlStore.open(f"sqlite:///{tmp_path}/store")
        teller = Teller(SqlLedger(store), "one")
        teller._purses[namespace_account("team")] = Purse(spent=round(dollars * 10**9))
        stage = BudgetStage(
            limits,
            teller,
            worst=lambda *_: None,
            prices="",
            metrics=ModelMetrics(),
            refused=nothing,
        )
        assert stage.short(Identity("team")) == pytest.approx(short)
        assert stage.short(Identity("other")) == 0

    run_async(body())


async def nothing() -> None:
    """Nobody has to be told."""


@pytest.mark.req("COG-5.3.1")
@pytest.mark.parametrize(
    ("short", "chosen", "reason"),
    [(0.0, "big", "meets_floor"), (0.4, "big", "meets_floor"), (0.6, "small", "meets_floor")],
)
def test_the_floor_moves_as_money_runs_out(short: float, chosen: str, reason: str) -> None:
    async def body() -> None:
        async with provider() as fake:
            models = two_models(fake, floor=0.9, whenShort={"floor": 0.6})
            gateway = Gateway(models)
            gateway.short = lambda _: short
            async with (
                serving(models, "127.0.0.1", 0, gateway=gateway) as port,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            ):
                ask = {"model": "auto", "messages": [{"role": "user", "content": PLAIN}]}
                async with session.post("/v1/chat/completions", json=ask) as answer:
                    found = (await answer.json())["seedbed"]
                assert (found["model"], found["route"]) == (chosen, reason)
                # Who asks for a quality of his own gets it, whatever it costs.
                own = {"X-Seedbed-Quality": "0.9"}
                async with session.post("/v1/chat/completions", json=ask, headers=own) as answer:
                    assert (await answer.json())["seedbed"]["model"] == "big"

    run_async(body())
