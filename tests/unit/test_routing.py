"""Routing: what is predicted, what is chosen, when it is escalated."""

from __future__ import annotations

import itertools
import random

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest
from seedbed.runtime.llm.routing.hardness import LEVELS, hardness, level
from seedbed.runtime.llm.routing.predictor import Outcomes, Predictor, falling
from seedbed.runtime.llm.routing.router import ENOUGH, Wanted, route
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

COSTS = {"small": 1, "middle": 10, "big": 100}
shares = st.floats(0, 1)


def asked(text: str) -> ChatRequest:
    return ChatRequest(model="auto", messages=(ChatMessage(role="user", content=text),))


def test_harder_texts_score_higher() -> None:
    texts = [
        "Hi",
        "What is the capital of France?",
        "Explain why the sky is blue, step by step, unless it is night.",
        "Prove that ∫ x dx = x²/2, if x > 0. Then analyse ```def f(x): return x``` first.",
    ]
    scores = [hardness(asked(text)) for text in texts]
    assert scores == sorted(scores)
    assert 0 <= scores[0] < scores[-1] <= 1
    assert level(0.0) == 0
    assert level(1.0) == LEVELS - 1


@given(st.lists(st.tuples(shares, st.floats(0.1, 50)), min_size=1, max_size=8))
def test_the_falling_fit_falls_keeps_the_mean_and_leaves_what_falls_already(
    points: list[tuple[float, float]],
) -> None:
    values, weights = [value for value, _ in points], [weight for _, weight in points]
    fitted = falling(values, weights)
    assert all(one >= other - 1e-9 for one, other in itertools.pairwise(fitted))
    total = sum(weights)
    mean = sum(v * w for v, w in zip(values, weights, strict=True)) / total
    assert sum(v * w for v, w in zip(fitted, weights, strict=True)) / total == pytest.approx(mean)
    ordered = sorted(values, reverse=True)
    assert falling(ordered, weights) == ordered


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 30), shares), max_size=20
    )
)
def test_predictions_are_shares_that_never_rise_with_hardness(
    outcomes: list[tuple[str, int, int, float]],
) -> None:
    predictor = Predictor(
        [Outcomes(task, "small", at, n, n * good) for task, at, n, good in outcomes], {}
    )
    for task in "abc":
        found = [predictor.of(task, "small", at) for at in range(LEVELS)]
        assert all(0 <= each.quality <= 1 for each in found)
        pairs = itertools.pairwise(found)
        assert all(one.quality >= other.quality - 1e-9 for one, other in pairs)


def test_evidence_takes_over_from_what_was_stated() -> None:
    stated = {"small": 0.9}
    assert Predictor((), stated).of("t", "small", 2).quality == pytest.approx(0.9)
    poor = Predictor([Outcomes("t", "small", 2, 200, 40)], stated)
    assert poor.of("t", "small", 2).quality == pytest.approx(0.2, abs=0.05)
    assert poor.of("t", "small", 2).doubt < 0.05
    assert poor.of("other", "small", 2).quality < 0.5, "a little is learnt of other tasks too"


@pytest.mark.req("COG-5.3.1")
def test_predictions_are_calibrated() -> None:
    """Of the answers that are predicted to be good with probability p, p are good."""
    chance = random.Random(7)
    truth = {
        (task, at): chance.uniform(0.2, 0.95) * (1 - 0.1 * at)
        for task in "abcdef"
        for at in range(5)
    }

    def sample(count: int) -> list[Outcomes]:
        return [
            Outcomes(task, "small", at, 1, float(chance.random() < truth[task, at]))
            for task, at in chance.choices(list(truth), k=count)
        ]

    predictor = Predictor(sample(6000), {})
    bins: dict[int, list[tuple[float, float]]] = {}
    for each in sample(6000):
        quality = predictor.of(each.task, "small", each.level).quality
        bins.setdefault(int(quality * 10), []).append((quality, each.good))
    error = sum(
        abs(sum(q for q, _ in found) - sum(good for _, good in found)) for found in bins.values()
    )
    assert error / 6000 < 0.03


def learnt(**quality: float) -> Predictor:
    return Predictor(
        [Outcomes("t", name, at, 100, 100 * q) for name, q in quality.items() for at in range(5)],
        {},
    )


@pytest.mark.req("COG-5.3.1")
@pytest.mark.parametrize(
    ("floor", "chosen", "reason"),
    [
        (0.5, "small", "meets_floor"),
        (0.7, "middle", "meets_floor"),
        (0.88, "big", "meets_floor"),
        (0.99, "big", "best_there_is"),
    ],
)
def test_the_cheapest_that_meets_the_floor_is_chosen(
    floor: float, chosen: str, reason: str
) -> None:
    predictor = learnt(small=0.6, middle=0.8, big=0.95)
    found = route(COSTS, predictor, Wanted("t", 1, floor), explore=0, chance=0.5)
    assert (found.order[0], found.reason) == (chosen, reason)
    assert set(found.order) == set(COSTS), "the others stand behind it"


@given(shares, shares, shares, shares, shares)
def test_no_cheaper_model_meets_the_floor_and_exploring_is_bounded(
    small: float, middle: float, big: float, floor: float, chance: float
) -> None:
    predictor = learnt(small=small, middle=middle, big=big)
    found = route(COSTS, predictor, Wanted("t", 0, floor), explore=0.05, chance=chance)
    first = found.order[0]
    if found.reason == "meets_floor":
        cheaper = [name for name in COSTS if COSTS[name] < COSTS[first]]
        assert all(found.predicted[name].quality < floor for name in cheaper)
    assert found.reason != "tried_out", f"all are known by {ENOUGH} outcomes"


def test_what_is_not_known_is_tried_out_now_and_then() -> None:
    predictor = Predictor([Outcomes("t", "big", 0, 100, 95)], {"small": 0.7})
    tried = [
        route(COSTS, predictor, Wanted("t", 0, 0.8), explore=0.05, chance=n / 1000).reason
        for n in range(1000)
    ].count("tried_out")
    assert tried == 50


def entry(name: str, fake: FakeProvider, dollars: str, quality: float) -> ModelEntry:
    price = {"prompt": dollars, "completion": dollars}
    given = {"name": name, "provider": "openai", "model": name, "apiBase": fake.url}
    return ModelEntry.model_validate({**given, "price": price, "quality": quality})


def judged(body: Json) -> str:
    """A model that doubts its own answers about dogs."""
    words = [message["content"] for message in body["messages"]]
    if not words[-1].startswith("Judge"):
        return f"{body['model']} answers"
    return "20" if "dog" in words[0] else "I say 95."


@pytest.mark.req("COG-5.3.1")
def test_a_cascade_escalates_below_the_confidence() -> None:
    async def body() -> None:
        async with provider(say=judged) as fake:
            models = Models.model_validate(
                {
                    "models": [entry("big", fake, "10", 0.95), entry("small", fake, "1", 0.85)],
                    "default": "big",
                    "routing": {"cascade": True, "explore": 0},
                }
            )
            async with (
                serving(models, "127.0.0.1", 0, gateway=Gateway(models)) as port,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            ):
                for text, tried, first in (
                    ("What is a cat?", "small=ok,small=ok", "small"),
                    ("What is a dog?", "small=ok,small=escalated,big=ok", "big"),
                ):
                    ask = {"model": "auto", "messages": [{"role": "user", "content": text}]}
                    async with session.post("/v1/chat/completions", json=ask) as answer:
                        found = await answer.json()
                        assert answer.headers["X-Seedbed-Attempts"] == tried
                    assert found["model"] == first
                    assert found["seedbed"]["route"] == "meets_floor"
                    assert found["choices"][0]["message"]["content"] == f"{first} answers"

    run_async(body())
