"""Which requests the cache is asked for, and which answers it keeps. Pure.

A request that asks for variety (a temperature above 0 and no seed) gets a fresh answer each time,
unless the settings say otherwise. One that sets no temperature leaves it open, and is cached.

Pictures and sound count by their content, so only an equal request gets the same answer; one that names
a picture by its address is not cached, because what stands there may change.

An answer is kept where the model said all it wanted to say: what was cut off, filtered, refused, empty
or misses the request's JSON schema is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.cache.settings import CacheSettings
from seedbed.runtime.llm.call import Call
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json
from seedbed.runtime.llm.structure import misses_schema

HEADER, TAGS = "X-Seedbed-Cache", "X-Seedbed-Cache-Tags"
MOST_TAGS = 16
LARGEST_ANSWER = 256 * 1024
"""Bytes of an answer that is kept."""
_TAG = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._:/-]{0,62}[A-Za-z0-9])?$")

Directive = Literal["", "exact", "no-store", "refresh", "bypass"]
_DIRECTIVES: tuple[Directive, ...] = ("", "exact", "no-store", "refresh", "bypass")


@dataclass(frozen=True, slots=True)
class Wish:
    """What may be done for one request.

    Attributes:
        read: answers may come from the cache.
        write: the answer may be kept.
        similar: answers to similar requests will do.
    """

    read: bool = True
    write: bool = True
    similar: bool = True

    @property
    def anything(self) -> bool:
        """Whether the cache has any part in it."""
        return self.read or self.write


_WISHES: dict[Directive, Wish] = {
    "": Wish(),
    "exact": Wish(similar=False),
    "no-store": Wish(write=False),
    "refresh": Wish(read=False),
    "bypass": Wish(read=False, write=False, similar=False),
}


def wish_of(call: Call, settings: CacheSettings) -> Wish:
    """What the caller, the request and the settings allow together.

    Raises:
        InvalidError: naming the header that says something unknown.
    """
    told = call.headers.get(HEADER, "").strip().lower()
    directive = next((each for each in _DIRECTIVES if each == told), None)
    if directive is None:
        known = ", ".join(each for each in _DIRECTIVES if each)
        raise InvalidError(HEADER, f"expected one of {known}")
    request = call.request
    if not isinstance(request, ChatRequest):
        return _WISHES[directive]
    media = request.media()
    if _varies(request, settings) or media.elsewhere:
        return _WISHES["bypass"]
    return replace(_WISHES[directive], similar=False) if media else _WISHES[directive]


def tags_of(text: str) -> tuple[str, ...]:
    """The tags of the header, in order, each once.

    Raises:
        InvalidError: where one is no tag, or there are too many.
    """
    found = tuple(sorted({part.strip() for part in text.split(",") if part.strip()}))
    if len(found) > MOST_TAGS or not all(_TAG.match(tag) for tag in found):
        raise InvalidError(
            TAGS, f"expected up to {MOST_TAGS} tags of letters, digits and ._:/-, by commas"
        )
    return found


def keeps(request: ChatRequest | EmbeddingRequest, answer: Json) -> bool:
    """Whether an answer is worth keeping."""
    if isinstance(request, EmbeddingRequest):
        return bool(answer.get("data"))
    choices: list[Json] = answer.get("choices") or []
    if len(choices) != 1:
        return False
    message = choices[0].get("message") or {}
    if message.get("refusal"):
        return False
    match choices[0].get("finish_reason"):
        case "tool_calls":
            return bool(message.get("tool_calls"))
        case "stop":
            # Some providers say `stop` though a tool is called.
            if message.get("tool_calls"):
                return True
            return bool(message.get("content")) and not misses_schema(request, answer)
        case _:
            return False


def calls_tools(answer: Json) -> bool:
    """Whether an answer calls tools: those are never taken for another request's."""
    return any((each.get("message") or {}).get("tool_calls") for each in answer.get("choices", ()))


def _varies(request: ChatRequest, settings: CacheSettings) -> bool:
    """Whether several answers are wanted, or how likely one was; neither is kept."""
    if request.n > 1 or request.logprobs:
        return True
    return bool(request.temperature) and request.seed is None and not settings.sampled
