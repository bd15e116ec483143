"""The cascade's confidence: what a model says of its own answers counts for what it has been worth.

Played on recorded answers of a weak and a strong model where they are there (see hack/bench/routing.py),
else on generated ones.
"""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.bench.routing import FILE, ROOT, Question, generated, recorded
from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import Models, Routing
from seedbed.runtime.llm.routing.confidence import ENOUGH, Confidence, Judged, learnt
from seedbed.runtime.llm.routing.fitting import Example, Fitted, fit
from seedbed.runtime.llm.routing.marks import (
    Marks,
    marks,
    packed,
    sent,
    unpacked,
    with_word,
    word_in,
)
from seedbed.runtime.llm.service import serving
from seedbed.runtime.store.outcomes import JudgedRow, OutcomeRow
from tests.conftest import run_async
from tests.providers import Json, provider

FIVE = 5
shares = st.floats(0, 1)


@cache
def questions() -> tuple[list[Question], list[Question]]:
    """Those that are learnt from, and those that are asked."""
    path = ROOT.parent / "shared" / "data" / FILE
    found = recorded(path)[:2500] if path.exists() else generated(2500, 7)
    return (
        [each for each in found if each.digest % FIVE],
        [each for each in found if each.digest % FIVE == 0],
    )


def word_of(question: Question) -> float:
    """A model that is too sure: it praises every right answer, and nine of ten wrong ones."""
    doubts = question.digest // FIVE % 10 == 0
    return 0.3 if doubts and not question.weak else 0.95


@cache
def shown(prompt: str) -> Marks:
    return marks(prompt)


@cache
def fitted() -> Fitted:
    known, _ = questions()
    return fit([Example(each.subject, shown(each.prompt), each.weak) for each in known])


def judged(of: Sequence[Question]) -> list[Judged]:
    return [
        Judged(fitted().quality(each.subject, shown(each.prompt)), word_of(each), each.weak)
        for each in of
    ]


def kept(confidence: Confidence, of: Sequence[Question]) -> list[bool]:
    """Whether each question's weak answer is kept."""
    floor = Routing().confidence
    return [confidence.of(each.predicted, each.word) >= floor for each in judged(of)]


def share_right(of: Sequence[Question], keeps: Sequence[bool]) -> float:
    found = [each.weak for each, keep in zip(of, keeps, strict=True) if keep]
    return sum(found) / max(1, len(found))


@pytest.mark.req("COG-5.3.1")
def test_what_is_kept_at_the_usual_confidence_is_right_as_often_as_it_says() -> None:
    """Only answers that are good with 0.8 are kept, though the model praises nearly all of them."""
    known, asked = questions()
    assert Routing().confidence == 0.8
    guessed, taught = kept(Confidence(), asked), kept(learnt(judged(known)), asked)
    assert share_right(asked, taught) >= 0.8
    assert share_right(asked, taught) > share_right(asked, guessed) + 0.01
    assert 0.05 < sum(taught) / len(asked) < sum(guessed) / len(asked)
    pairs = list(zip(asked, taught, strict=True))
    quality = sum(each.weak if keep else each.strong for each, keep in pairs)
    assert quality >= 0.95 * sum(each.strong for each in asked), "less than 5 % is lost"


@given(shares, shares, shares)
def test_before_anything_is_known_it_is_the_mean(
    predicted: float, word: float, good: float
) -> None:
    few = learnt([Judged(predicted, word, good)] * (ENOUGH - 1))
    assert few.of(predicted, word) == Confidence().of(predicted, word) == (predicted + word) / 2


def test_a_word_that_tells_nothing_moves_nothing_and_one_that_tells_all_decides() -> None:
    chance = random.Random(3)
    drawn = [(chance.uniform(0.4, 0.9), chance.random()) for _ in range(4000)]
    rows = [(p, w, float(chance.random() < p)) for p, w in drawn]
    idle = learnt([Judged(*row) for row in rows])
    assert idle.of(0.7, 0.05) == pytest.approx(idle.of(0.7, 0.95), abs=0.06)
    assert idle.of(0.7, 0.5) == pytest.approx(0.7, abs=0.03)
    telling = learnt([Judged(p, 0.05 + 0.9 * good, good) for p, _, good in rows])
    assert telling.of(0.5, 0.95) > 0.9
    assert telling.of(0.9, 0.05) < 0.2


@given(st.text(max_size=200), shares)
def test_a_word_travels_with_the_marks_and_leaves_them_as_they_are(text: str, word: float) -> None:
    told = with_word(packed(marks(text)), word)
    assert word_in(sent(told)) == pytest.approx(word, abs=0.00501)
    assert (unpacked(told) == marks(text)).all()
    assert word_in(sent(packed(marks(text)))) is None
    assert with_word(told, word) == told


def test_a_word_beyond_certainty_is_refused() -> None:
    data = base64.urlsafe_b64decode(packed(marks("x"))) + bytes([101])
    with pytest.raises(InvalidError, match="marks"):
        sent(base64.urlsafe_b64encode(data).decode())


class Kept:
    """An `OutcomeStore` in memory."""

    def __init__(self) -> None:
        self.rows: list[JudgedRow] = []
        self.counts: list[OutcomeRow] = []

    async def add(self, row: OutcomeRow, marks: bytes = b"") -> None:
        self.counts.append(row)
        at = float(len(self.rows))
        name = str(len(self.rows))
        self.rows.append(JudgedRow(name, at, row.namespace, row.task, row.model, row.good, marks))

    async def judged(self, since: float) -> list[JudgedRow]:
        return [each for each in self.rows if each.at >= since]

    async def trim(self) -> None:
        pass

    async def all(self, namespace: str = "") -> list[OutcomeRow]:
        return [each for each in self.counts if namespace in ("", each.namespace)]


@asynccontextmanager
async def cascading(routing: Json) -> AsyncIterator[tuple[aiohttp.ClientSession, Gateway, Kept]]:
    """A service whose weak model is asked first and praises what it says."""

    def say(body: Json) -> str:
        last = body["messages"][-1]["content"]
        return "95" if last.startswith("Judge") else f"{body['model']} says"

    async with provider(say=say) as fake:
        far = {"provider": "openai", "apiBase": fake.url}
        weak = {"name": "weak", "model": "weak", "quality": 0.9, **far}
        strong = {"name": "strong", "model": "strong", "quality": 0.95, **far}
        prices = [{"prompt": each, "completion": each} for each in ("10", "1")]
        models = Models.model_validate(
            {
                "models": [{**strong, "price": prices[0]}, {**weak, "price": prices[1]}],
                "default": "auto",
                "routing": {"cascade": True, "explore": 0, "floor": 0, **routing},
            }
        )
        gateway, store = Gateway(models), Kept()
        async with (
            gateway.learning.following(store),
            serving(models, "127.0.0.1", 0, gateway=gateway) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        ):
            yield session, gateway, store


async def asked(session: aiohttp.ClientSession, text: str) -> tuple[Json, list[str]]:
    body = {"model": "default", "messages": [{"role": "user", "content": text}]}
    async with session.post("/v1/chat/completions", json=body) as answer:
        told = (await answer.json())["seedbed"]
        return told, [each["outcome"] for each in told["attempts"]]


@pytest.mark.req("COG-5.3.1")
def test_a_model_that_praises_wrong_answers_is_believed_less_once_they_were_judged() -> None:
    async def body() -> None:
        known, _ = questions()
        async with cascading({}) as (session, gateway, _):
            told, outcomes = await asked(session, "Which?")
            assert outcomes == ["ok", "ok"], "its word and what is stated are all there is"
            assert float(told["confidence"]) == pytest.approx(0.925, abs=0.006)
            assert word_in(sent(told["marks"])) == 0.95
            # Answers like it were judged: the model praised each, and four of ten were wrong.
            for at, each in enumerate(known[:300]):
                shown = with_word(packed(marks(each.prompt)), 0.95)
                outcome = {"task": "general", "model": "weak", "hardness": 1, "marks": shown}
                async with session.post(
                    "/api/v3/outcomes", json={**outcome, "good": float(at % 10 < 6)}
                ) as answer:
                    assert answer.status == 201
            await gateway.learning.look()
            told, outcomes = await asked(session, "Which one is it?")
            assert outcomes == ["ok", "escalated", "ok"]
            assert float(told["confidence"]) < 0.8
            assert told["model"] == "strong"
            assert word_in(sent(told["marks"])) is None, "it is no word on this answer"

    run_async(body())


@pytest.mark.req("COG-5.3.1")
@pytest.mark.parametrize(("confidence", "model"), [(0.93, "strong"), (0.92, "weak")])
def test_the_confidence_below_which_it_escalates_is_the_users(
    confidence: float, model: str
) -> None:
    async def body() -> None:
        async with cascading({"confidence": confidence}) as (session, _, _):
            told, _ = await asked(session, "Which?")
            assert told["model"] == model

    run_async(body())
