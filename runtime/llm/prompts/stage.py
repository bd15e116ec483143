"""The stage that makes prompts shorter, or alike at their beginnings, before a model is asked.

It stands behind the cache, which goes by what the caller has written. A caller who wants the prompt
sent exactly so says `X-Seedbed-Prompts: as-is`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.answers import PatternTold
from seedbed.runtime.llm.call import Call, Reply, Rest
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.llm.prompts.compress import Embeds, compressed
from seedbed.runtime.llm.prompts.duplicates import without_duplicates
from seedbed.runtime.llm.prompts.miner import PARAGRAPHS, Match, Miner
from seedbed.runtime.llm.prompts.prefix import constant_first, paragraphs, sorted_tools
from seedbed.runtime.llm.prompts.settings import Prompts
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest
from seedbed.runtime.llm.resilience.targets import Target

HEADER = "X-Seedbed-Prompts"
_NAMESPACES = 64
_WARM = 200
"""Prompts of a namespace that are all learnt from; of later ones, one in `_OF`."""
_OF = 20
_MOST = 256 * 1024
"""Characters of a request that are looked at: others wait meanwhile."""
Messages = tuple[ChatMessage, ...]
_READ = ("system", "developer", "user")


class PromptStage:
    """See the module.

    Args:
        targets: the models by name.
        embedder: for compression; None where there is none.
    """

    def __init__(
        self,
        settings: Prompts,
        targets: Mapping[str, Target],
        metrics: ModelMetrics,
        embedder: Embeds | None,
    ) -> None:
        self._settings = settings
        self._targets = targets
        self._metrics = metrics
        self._embedder = embedder
        self._miners: OrderedDict[str, Miner] = OrderedDict()
        self._seen: dict[str, int] = {}

    async def __call__(self, call: Call, rest: Rest) -> Reply:
        """The stage."""
        asked = call.request
        wanted = call.headers.get(HEADER, "")
        if wanted not in ("", "as-is"):
            raise InvalidError(HEADER, "must be as-is")
        if wanted or not isinstance(asked, ChatRequest) or call.refusal is not None:
            return await rest(call)
        call.request = await self._prepared(call, asked)
        try:
            return await rest(call)
        finally:
            call.request = asked

    def patterns(self, namespace: str) -> list[PatternTold]:
        """What prompts of a namespace have in common, the most frequent first."""
        miner = self._miners.get(namespace)
        found = sorted(miner.patterns.values(), key=lambda p: -p.count) if miner else []
        return [
            {
                "pattern": each.name,
                "prompts": each.count,
                "constant_share": round(each.constant / max(1, each.words), 4),
                "text": each.text,
            }
            for each in found
        ]

    async def _prepared(self, call: Call, asked: ChatRequest) -> ChatRequest:
        settings, messages = self._settings, asked.messages
        changed: dict[str, Any] = {}
        saved = 0
        least = settings.duplicates_from_bytes
        if settings.duplicates and 2 * least <= _length(messages) <= _MOST:
            thinned = without_duplicates(messages, least)
            messages, saved = thinned.messages, thinned.saved
            self._metrics.prompt_saved.labels("duplicate").inc(saved)
        if settings.compression is not None and self._embedder is not None:
            less = await compressed(messages, settings.compression, self._embedder)
            messages = less.messages
            saved += less.saved
            self._metrics.prompt_saved.labels("compression").inc(less.saved)
            if less.saved:
                call.notes["Prompt_Similarity"] = f"{less.similarity:.3f}"
        if saved:
            call.notes["Prompt_Saved"] = str(saved)
        if settings.patterns:
            messages = self._aligned(call, messages, changed)
        if settings.prefix != "as-given" and asked.tools is not None:
            changed["tools"] = sorted_tools(asked.tools)
        if messages is not asked.messages:
            changed["messages"] = messages
        return asked.model_copy(update=changed) if changed else asked

    def _aligned(self, call: Call, messages: Messages, changed: dict[str, Any]) -> Messages:
        """Learn from the prompt, and use what is known of its namespace."""
        namespace = call.identity.namespace
        count = self._seen[namespace] = self._seen.get(namespace, 0) + 1
        keyed = self._targets[call.candidates[0]].entry.prompt_cache == "key"
        uses = keyed or self._settings.prefix == "blocks"
        if not uses and count > _WARM and count % _OF:
            return messages
        began = time.perf_counter()
        miner = self._miner(namespace)
        texts = _texts(messages)
        matches = list(zip(texts, miner.read(texts), strict=True))
        if self._settings.prefix == "blocks" and _length(messages) <= _MOST:
            messages = constant_first(messages, miner.is_constant)
        self._metrics.prompt_seconds.observe(time.perf_counter() - began)
        self._metrics.prompt_patterns.labels(namespace).set(len(miner.patterns))
        if name := _asked(matches):
            call.notes["Prompt_Pattern"] = name
        if keyed and (key := _key(namespace, matches)):
            changed["prompt_cache_key"] = key
        return messages

    def _miner(self, namespace: str) -> Miner:
        miner = self._miners.setdefault(namespace, Miner())
        self._miners.move_to_end(namespace)
        while len(self._miners) > _NAMESPACES:
            oldest, _ = self._miners.popitem(last=False)
            self._seen.pop(oldest, None)
        return miner


def _length(messages: Messages) -> int:
    return sum(len(message.content or "") for message in messages)


def _texts(messages: Messages) -> list[str]:
    """The paragraphs that are learnt from."""
    found: list[str] = []
    left = _MOST
    for message in messages:
        if message.role in _READ and left:
            text = (message.content or "")[:left]
            left -= len(text)
            found += paragraphs(text, PARAGRAPHS)
    return found[:PARAGRAPHS]


def _asked(matches: Sequence[tuple[str, Match]]) -> str:
    """The pattern of the last paragraph that has one with slots: what is asked stands at the end."""
    slotted = [m.pattern for _, m in matches if m.pattern is not None and m.constant < m.words]
    return slotted[-1].name if slotted else ""


def _key(namespace: str, matches: Sequence[tuple[str, Match]]) -> str:
    """A name of how a prompt begins, the same in every replica; empty where it begins like no other."""
    parts: list[str] = []
    for paragraph, match in matches:
        parts += paragraph.split(None, match.prefix)[: match.prefix]
        if match.prefix < match.words:
            break
    return (
        blake2b("\0".join([namespace, *parts]).encode(), digest_size=16).hexdigest()
        if parts
        else ""
    )
