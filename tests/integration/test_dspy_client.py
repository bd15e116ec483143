"""DSPy's own client, with the settings its documentation gives, against the model service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import dspy

from tests.conftest import run_async
from tests.integration.test_openai_client import client
from tests.providers import FakeProvider, Json, provider


class Sort(dspy.Signature):  # type: ignore[misc]  # DSPy ships no types
    """Say which kind of licence it is."""

    document: str = dspy.InputField()
    kind: Literal["free", "other"] = dspy.OutputField()
    share: float = dspy.OutputField()


def say(body: Json) -> str:
    """What a model that keeps to DSPy's chat form would say."""
    text = str(body["messages"][0]["content"])
    names = [name for name in ("reasoning", "kind", "share") if f"[[ ## {name} ## ]]" in text]
    values = {"reasoning": "It says so.", "kind": "free", "share": "0.5"}
    lines = [f"[[ ## {name} ## ]]\n{values[name]}" for name in names]
    return "\n\n".join([*lines, "[[ ## completed ## ]]"])


def ran(body: Callable[[FakeProvider, Any], Awaitable[None]]) -> None:
    async def inner() -> None:
        async with provider(say=say) as fake, client(fake) as ask:
            lm = dspy.LM("openai/m", api_base=str(ask.base_url), api_key="any", cache=False)
            await body(fake, lm)

    run_async(inner())


def test_predict_and_chain_of_thought_answer_with_types() -> None:
    async def body(fake: FakeProvider, lm: Any) -> None:
        with dspy.context(lm=lm):
            found = await dspy.Predict(Sort).acall(document="MIT")
            assert (found.kind, found.share) == ("free", 0.5)
            thought = await dspy.ChainOfThought(Sort).acall(document="MIT")
            assert thought.reasoning == "It says so."
            assert thought.kind == "free"
        assert len(fake.seen) == 2
        usage = lm.history[-1]["usage"]
        assert usage["completion_tokens"] == fake.billed[-1][1]

    ran(body)


def test_many_programs_at_once() -> None:
    async def body(fake: FakeProvider, lm: Any) -> None:
        program = dspy.Predict(Sort)
        with dspy.context(lm=lm):
            found = await asyncio.gather(
                *(program.acall(document=f"text {number}") for number in range(16))
            )
        assert {each.kind for each in found} == {"free"}
        assert len(fake.seen) == 16

    ran(body)


def test_a_program_streams_its_fields() -> None:
    async def body(fake: FakeProvider, lm: Any) -> None:
        listener = dspy.streaming.StreamListener(signature_field_name="reasoning")
        program = dspy.streamify(dspy.ChainOfThought(Sort), stream_listeners=[listener])
        text, last = "", None
        with dspy.context(lm=lm):
            async for part in program(document="MIT"):
                if isinstance(part, dspy.streaming.StreamResponse):
                    text += part.chunk
                elif isinstance(part, dspy.Prediction):
                    last = part
        assert text.strip() == "It says so."
        assert last is not None
        assert last.kind == "free"
        assert fake.seen[0]["stream"] is True

    ran(body)
