"""Holds answers to the JSON schema of the request; a model that misses it is told so and asked again.

Streams are not held to it here: what has been sent cannot be taken back.
"""

from __future__ import annotations

from dataclasses import replace

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.call import Call, Reply, Rest
from seedbed.runtime.llm.providers import MalformedError
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest, Json
from seedbed.runtime.llm.schema_check import check_schema, fault

MOST_ANSWERS = 3
"""Answers that are asked for before it is given up."""


class StructureError(MalformedError):
    """No answer fitted the schema.

    Attributes:
        model: the model that gave the last one.
    """

    code = "answer_malformed"


async def structured(call: Call, rest: Rest) -> Reply:
    """The stage: passes what has no schema, checks what has.

    Raises:
        InvalidError: where the schema is none.
        StructureError: where no answer fits it.
    """
    asked = call.request
    if not isinstance(asked, ChatRequest) or asked.stream or asked.answer_schema is None:
        return await rest(call)
    schema = asked.answer_schema
    check_schema(schema)
    wrong = ""
    try:
        for _ in range(MOST_ANSWERS):
            reply = await rest(call)
            for text in _texts(reply.whole or {}):
                if wrong := fault(text, schema):
                    break
            else:
                return reply
            call.attempts[-1] = replace(call.attempts[-1], outcome=StructureError.code)
            call.request = _again(asked, text, wrong)
    finally:
        call.request = asked
    raise StructureError(call.served_by, f"{MOST_ANSWERS} answers missed the schema: {wrong}")


def misses_schema(request: ChatRequest, answer: Json) -> bool:
    """Whether an answer does not fit the JSON schema of the request; never where there is none."""
    schema = request.answer_schema
    if schema is None:
        return False
    try:
        return any(fault(text, schema) for text in _texts(answer))
    except InvalidError:
        return True


def _texts(answer: Json) -> list[str]:
    """What the model said, without what calls a tool or was cut off, which is no matter of form."""
    other = ("length", "tool_calls", "content_filter")
    choices = [each for each in answer["choices"] if each.get("finish_reason") not in other]
    return [str(choice["message"].get("content") or "") for choice in choices]


def _again(asked: ChatRequest, text: str, wrong: str) -> ChatRequest:
    said = ChatMessage(role="assistant", content=text)
    told = ChatMessage(
        role="user", content=f"That does not fit the JSON schema: {wrong}. Answer again, JSON only."
    )
    return asked.model_copy(update={"messages": (*asked.messages, said, told)})
