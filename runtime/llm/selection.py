"""Which models may answer a request, the one asked for first. Pure.

A model that cannot do what the request needs is passed over, and the reason is recorded. Behind the
model asked for stand those behind it in the models file, then those before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.call import Attempt
from seedbed.runtime.llm.media import Sense
from seedbed.runtime.llm.models import Capability, ModelEntry, ModelFacts
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest

_BYTES_A_TOKEN = 4
_LONGEST_NAME = 200
"""Of usual text, for judging whether a prompt fits; money is reckoned with the worst case instead."""
_FIELD: Mapping[Capability, str] = {
    "streaming": "stream",
    "structured": "response_format",
    "tools": "tools",
    "embeddings": "model",
}


@dataclass(frozen=True, slots=True)
class Need:
    """What a request needs of a model.

    Attributes:
        tokens: of prompt and answer, as far as they can be told before.
        fields: of the request that a provider has to know; not every kind does.
        further: fields that only models take whose entries say so.
        chats: whether a chat is to be answered.
        at: the parts of messages that need something, by what they need.
    """

    able: frozenset[Capability]
    tokens: int
    fields: frozenset[str] = frozenset()
    chats: bool = True
    at: Mapping[Sense, str] = field(default_factory=dict)
    further: frozenset[str] = frozenset()

    def field_of(self, name: Capability) -> str:
        """Where the request asks for it."""
        return self.at[name] if name in ("vision", "audio") else _FIELD[name]


@dataclass(frozen=True, slots=True)
class Choice:
    """The models that may answer, and why others may not."""

    candidates: tuple[str, ...]
    passed_over: tuple[Attempt, ...] = ()


def need_of(request: ChatRequest | EmbeddingRequest) -> Need:
    """What a request needs."""
    if isinstance(request, EmbeddingRequest):
        return Need(frozenset({"embeddings"}), 0, chats=False)
    form = (request.response_format or {}).get("type")
    wanted: dict[Capability, bool] = {
        "streaming": request.stream,
        "structured": form in ("json_schema", "json_object"),
        "tools": request.tools is not None,
    }
    media = request.media()
    tokens = request.prompt_bytes() // _BYTES_A_TOKEN + media.usual_tokens() + (request.limit or 0)
    able = frozenset(name for name, is_wanted in wanted.items() if is_wanted) | media.at.keys()
    return Need(able, tokens, request.uncommon, at=media.at, further=request.further)


def lacks(facts: ModelFacts, need: Need) -> str:
    """The first thing that a model has not got, as `no_tools`; empty where it has all."""
    for name in sorted(need.able - facts.able):
        return f"no_{name}"
    if need.chats and not facts.chats:
        return "no_chats"
    if need.fields and not facts.whole_form:
        return f"no_{min(need.fields)}"
    if need.further - facts.passes:
        return "no_such_field"
    return "too_short" if need.tokens > facts.context else ""


def choose(
    entries: Sequence[ModelEntry], facts: Mapping[str, ModelFacts], asked: str, need: Need
) -> Choice:
    """The models that may answer for the one asked for.

    Args:
        entries: in the order of the models file.
        facts: by name.
        asked: the name of one of them.
        need: what the request needs.

    Raises:
        InvalidError: where no model can do it, naming the field that asks for it.
    """
    at = next(number for number, entry in enumerate(entries) if entry.name == asked)
    others = [*entries[at + 1 :], *entries[:at]] if entries[at].failover else []
    order = [entries[at], *(entry for entry in others if entry.failover)]
    missing = {entry.name: lacks(facts[entry.name], need) for entry in order}
    able = tuple(name for name, reason in missing.items() if not reason)
    passed_over = tuple(Attempt(name, why) for name, why in missing.items() if why)
    if able and not need.chats:
        # Vectors of different models cannot be compared: only the same one stands in.
        same = {entry.name: entry.model.rpartition("/")[2] for entry in order}
        able = tuple(name for name in able if same[name] == same[able[0]])
    if able:
        before = tuple(each for each in passed_over if _before(each.model, able[0], missing))
        return Choice(able, before)
    if missing[asked] == "too_short":
        # How long the prompt is, only the model itself knows for certain: it may say so.
        return Choice((asked,))
    if unknown := sorted(need.further - facts[asked].passes):
        raise InvalidError(unknown[0][:_LONGEST_NAME], "is not known, or not for this model")
    lacking = [need.field_of(name) for name in sorted(need.able - facts[asked].able)]
    named = next(iter(lacking or sorted(need.fields) or ["model"]))
    raise InvalidError(named, f"no model that may answer for {asked!r} can do this")


def _before(name: str, first: str, order: Mapping[str, str]) -> bool:
    names = list(order)
    return names.index(name) < names.index(first)
