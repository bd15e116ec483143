"""Between a DSPy signature and the model: a short prompt, a JSON answer held to its schema.

DSPy's own adapters explain their form in some 200 tokens, two seconds of a small model's time on
each call, and leave it to the model to keep to the form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
import orjson
from dspy.lm15 import Config, Message, Request, Response

from seedbed.crds.signature import Signature
from seedbed.runtime.agents.answer_form import Json, described, read, schema
from seedbed.runtime.agents.program import inside


class JsonAnswerAdapter(dspy.Adapter):  # type: ignore[misc]  # dspy ships no types
    """Asks for one JSON object with the signature's outputs. One per program."""

    def __init__(self, signature: Signature, max_tokens: int) -> None:
        """`signature` carries the outputs that the strategy adds."""
        super().__init__()
        self._signature = signature
        self._max_tokens = max_tokens

    def __call__(self, *_: Any, **__: Any) -> list[Json]:
        """Agents are asked asynchronously only."""
        raise TypeError("ask with acall")

    async def acall(
        self, lm: Any, lm_kwargs: Json, signature: Any, demos: list[Json], inputs: Json
    ) -> list[Json]:
        """Ask the model once; the outputs by name, in a list of one.

        Raises:
            AnswerMalformedError: where the answer does not fit the signature.
        """
        options = {**lm.kwargs, **lm_kwargs}
        config = Config(
            max_tokens=self._max_tokens,
            temperature=options.get("temperature"),
            seed=options.get("seed"),
            response_format={
                "type": "json_schema",
                "name": "answer",
                "schema": schema(self._signature.outputs, self._max_tokens),
            },
        )
        given = {each.name: inputs[inside(each.name)] for each in self._signature.inputs}
        system, *messages = self.format(signature, demos, given)
        request = Request(
            model=lm.model,
            system=system["content"],
            messages=tuple(_message(each) for each in messages),
            config=config,
        )
        response: Response = await lm.acall(request)
        text = response.text or ""
        return [read(text, self._signature, cut_off=response.finish_reason == "length")]

    def format(self, signature: Any, demos: list[Json], inputs: Json) -> list[Json]:
        """The messages: what to do and in which form, the demos, the inputs."""
        messages = [{"role": "system", "content": self._system(signature.instructions)}]
        for demo in demos:
            shown = {
                each.name: demo[each.name] for each in self._signature.outputs if each.name in demo
            }
            messages.append({"role": "user", "content": self._user(demo)})
            messages.append({"role": "assistant", "content": _json(shown)})
        return [*messages, {"role": "user", "content": self._user(inputs)}]

    def _system(self, instructions: str) -> str:
        form = ", ".join(described(each) for each in self._signature.outputs)
        return f"{instructions}\nAnswer with one JSON object: {{{form}}}"

    def _user(self, values: Mapping[str, Any]) -> str:
        return "\n\n".join(
            f"{each.name}: {_text(values[each.name])}" for each in self._signature.inputs
        )


def _message(message: Json) -> Message:
    make = Message.user if message["role"] == "user" else Message.assistant
    made: Message = make(message["content"])
    return made


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
