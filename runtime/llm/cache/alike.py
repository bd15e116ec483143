"""Similar requests: which scope a request belongs to, and which kept answer may serve it.

Similar requests share all but the words that vary: the namespace, the model, every message before the
last one, the last one's template, tools, sampling and answer schema. Values of few words are names, ids
and choices; they belong to the scope too, so that they are equal.
"""

from __future__ import annotations

import asyncio
import hashlib

import orjson

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.llm.cache.embedder import Embedded, Embeds
from seedbed.runtime.llm.cache.key import messages_of, settings_of
from seedbed.runtime.llm.cache.proof import Proof
from seedbed.runtime.llm.cache.similar import Accepted, Candidate, Similar
from seedbed.runtime.llm.cache.threshold import Learnt
from seedbed.runtime.llm.cache.tongue import is_english
from seedbed.runtime.llm.cache.variable import parts
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest
from seedbed.runtime.store.answers import AnswerKey, AnswerRow

PATIENCE = 0.5
"""Seconds that a request waits for its vector; a model that is busy is passed by."""
QUEUE = 8
"""Requests that may wait for their vectors, a hundredth of a second each; others are passed by."""
LONGEST = 4_000
"""Characters of what varies; the embedding model reads no more."""
_FEW = 3


def scope_of(
    namespace: str, model: str, request: ChatRequest | EmbeddingRequest
) -> tuple[str, str] | None:
    """The scope of a request and the words that are compared; None where only equal ones count."""
    if isinstance(request, EmbeddingRequest):
        return None
    *before, last = request.messages
    if last.role != "user" or not last.content or last.model_extra or request.media():
        return None
    found = parts(last.content)
    text = found.text.replace("\0", " ").strip()
    if not text or len(text) > LONGEST or not is_english(text):
        return None
    exact = [
        (name, value.casefold() if name and len(value.split()) <= _FEW else None)
        for name, value in found.slots
    ]
    same = [
        namespace,
        model,
        settings_of(request),
        messages_of(before),
        last.name,
        found.template,
        exact,
    ]
    form = orjson.dumps(same, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(form).hexdigest(), text


class Alike:
    """Kept answers by scope; see the module."""

    def __init__(self, embeds: Embeds, accepted: Accepted, *, prove: bool = True) -> None:
        """`prove`: whether a namespace's hits have to be verified before similar requests are served."""
        self._embeds = embeds
        self._accepted = accepted
        self._prove = prove
        self._proofs: dict[str, Proof] = {}
        self._waiting = 0
        self._scopes: dict[str, Similar] = {}
        self._keys: dict[str, AnswerKey] = {}

    async def embedded(self, text: str) -> Embedded | None:
        """A text as it is compared; None where the embedding model is away or too busy."""
        if self._waiting >= QUEUE:
            return None
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE):
                (prompt,) = await self._embeds.embed([text])
        except (TimeoutError, UnavailableError):
            return None
        finally:
            self._waiting -= 1
        return prompt

    def look(self, scope: str, prompt: Embedded) -> Candidate | None:
        """The kept answer of a scope that comes closest."""
        similar = self._scopes.get(scope)
        return similar.look(prompt) if similar is not None else None

    def key_of(self, row: str) -> AnswerKey | None:
        """The key of a row by its id."""
        return self._keys.get(row)

    def add(self, row: AnswerRow) -> None:
        """Compare with this row from now on; one without words is left out."""
        if not row.scope or not row.packed:
            return
        similar = self._scopes.get(row.scope)
        if similar is None:
            similar = Similar(self._accepted, proof=self._proof(row.namespace))
            self._scopes[row.scope] = similar
        learnt = Learnt.load(orjson.loads(row.learnt)) if row.learnt else None
        similar.add(row.id, Embedded.unpacked(row.text, row.packed), learnt)
        self._keys[row.id] = row.key

    def remove(self, row: AnswerRow) -> None:
        """Compare with it no longer."""
        if self._keys.pop(row.id, None) is None:
            return
        similar = self._scopes[row.scope]
        similar.remove(row.id)
        if not len(similar):
            del self._scopes[row.scope]

    def _proof(self, namespace: str) -> Proof:
        fresh = Proof(self._accepted.per_hit, needed=self._prove)
        return self._proofs.setdefault(namespace, fresh)

    def learn(self, scope: str, candidate: Candidate, *, correct: bool) -> bytes | None:
        """Take in whether a candidate's answer was right; what the row has taught, as JSON."""
        similar = self._scopes.get(scope)
        if similar is None or candidate.id not in similar:
            return None
        return orjson.dumps(similar.learn(candidate, correct=correct).dump())
