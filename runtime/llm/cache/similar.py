"""Which cached prompt means the same as a new one, if any: one `Similar` for each scope.

The nearest entries by cosine are candidates. The guard refuses those that differ in a fact; the
verifier says how likely the others mean the same; what the entry has been proven right or wrong in
moves that; the entry serves where the result meets what the user accepts.

    found = cache.look(prompt)             # None in an empty scope
    if found is not None and found.serve:  # the answer of entry found.id
        ...
    learnt = cache.learn(found, correct=True)   # keep it: add(..., learnt) brings it back

Everything is in memory and nothing blocks for long (about a millisecond at 10,000 entries), but for
the embedding, which `embedder` computes beforehand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from seedbed.runtime.llm.cache.embedder import Embedded
from seedbed.runtime.llm.cache.facts import Facts, facts
from seedbed.runtime.llm.cache.guard import difference
from seedbed.runtime.llm.cache.index import Index
from seedbed.runtime.llm.cache.threshold import Learnt, judged, proven_wrong

NEAREST = 4
"""Candidates that are looked at."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The shares of wrong answers that a user accepts."""

    per_lookup: float = 0.01
    per_hit: float = 0.02


@dataclass(frozen=True, slots=True)
class Candidate:
    """The best entry for a prompt.

    Attributes:
        similarity: cosine of the two prompts' vectors.
        score: the verifier's log-odds that they mean the same; `learn` wants it back.
        confidence: how likely the entry's answer is right, with what it has been proven in.
        serve: whether it may be served.
        reason: `alike`, or why it may not: `guard: number`, `unsure`, `proven wrong`.
    """

    id: str
    similarity: float
    score: float
    confidence: float
    serve: bool
    reason: str


@dataclass(slots=True)
class _Entry:
    id: str
    prompt: Embedded
    facts: Facts
    learnt: Learnt


class Similar:
    """The entries of one scope."""

    def __init__(self, accepted: Accepted | None = None) -> None:
        """Empty."""
        self.accepted = accepted or Accepted()
        self._index = Index()
        self._entries: dict[int, _Entry] = {}
        self._keys: dict[str, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: str) -> bool:
        return entry in self._keys

    def add(self, entry: str, prompt: Embedded, learnt: Learnt | None = None) -> None:
        """Add an entry, or replace it."""
        self.remove(entry)
        key = self._next
        self._next += 1
        self._keys[entry] = key
        self._entries[key] = _Entry(entry, prompt, facts(prompt.text), learnt or Learnt())
        self._index.add(key, prompt.vector)

    def remove(self, entry: str) -> None:
        """Remove an entry; nothing happens where there is none."""
        key = self._keys.pop(entry, None)
        if key is not None:
            del self._entries[key]
            self._index.remove(key)

    def look(self, prompt: Embedded) -> Candidate | None:
        """The entry whose answer most likely fits, None where there is no entry."""
        stated = facts(prompt.text)
        found = [
            self._judged(self._entries[key], stated, cosine)
            for key, cosine in self._index.nearest(prompt.vector, NEAREST)
        ]
        return max(found, key=lambda each: (each.serve, each.confidence), default=None)

    def learn(self, candidate: Candidate, *, correct: bool) -> Learnt:
        """Take in whether a candidate's answer was right, or would have been."""
        key = self._keys.get(candidate.id)
        if key is None:
            return Learnt()
        entry = self._entries[key]
        entry.learnt = entry.learnt.with_outcome(candidate.score, correct=correct)
        return entry.learnt

    def _judged(self, entry: _Entry, stated: Facts, cosine: float) -> Candidate:
        differs = difference(stated, entry.facts)
        if differs is not None:
            return Candidate(entry.id, cosine, -30.0, 0.0, serve=False, reason=f"guard: {differs}")
        score = 40 * (cosine - 0.95) + math.log((1 - self.accepted.per_hit) / self.accepted.per_hit)
        confidence = 1 / (1 + math.exp(-judged(entry.learnt, score)))
        if proven_wrong(entry.learnt, score):
            return Candidate(
                entry.id, cosine, score, confidence, serve=False, reason="proven wrong"
            )
        serve = confidence >= 1 - self.accepted.per_hit
        reason = "alike" if serve else "unsure"
        return Candidate(entry.id, cosine, score, confidence, serve=serve, reason=reason)
