"""Which cached prompt means the same as a new one, if any: one `Similar` for each scope.

The nearest entries by cosine are candidates. The guard refuses those that differ in a fact; the
verifier says how likely the others mean the same, also by what their neighbourhoods have been proven
right or wrong in; what the entry itself has taught moves that; it serves where the result meets what
the user accepts.

    found = cache.look(prompt)             # None in an empty scope
    if found is not None and found.serve:  # the answer of entry found.id
        ...
    learnt = cache.learn(found, correct=True)   # keep it: add(..., learnt) brings it back

Everything is in memory and a look takes a few milliseconds, without the embedding, which `embedder`
computes beforehand. An entry takes about 10 KB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from seedbed.runtime.llm.cache.embedder import Embedded
from seedbed.runtime.llm.cache.evidence import Evidence
from seedbed.runtime.llm.cache.features import Prompt, features, prompt
from seedbed.runtime.llm.cache.guard import difference
from seedbed.runtime.llm.cache.index import Index, Vector
from seedbed.runtime.llm.cache.threshold import Learnt, Outcome, judged, placed, proven_wrong
from seedbed.runtime.llm.cache.verifier import verifier

NEAREST = 3
"""Candidates that are looked at."""
FARTHEST = 0.7
"""Cosine below which nothing is a candidate."""
ENOUGH = 2000
"""Places of outcomes from which on the neighbourhood is asked."""
SURE = 30.0
"""Log-odds of certainty."""
_GUESSED_HITS, _GUESSED_LOOKS = 50.0, 100.0
"""Hits and look-ups that the share of hits starts from."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The shares of wrong answers that a user accepts."""

    per_lookup: float = 0.01
    per_hit: float = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """The best entry for a prompt.

    Attributes:
        similarity: cosine of the two prompts' vectors.
        score: the verifier's log-odds that they mean the same; `learn` wants it back.
        confidence: how likely the entry's answer is right, with what it has been proven in.
        serve: whether it may be served.
        reason: `same words`, `alike`, or why it may not: `guard: number`, `unsure`, `proven wrong`,
            `far`.
        place: the new prompt's vector; `learn` wants it back.
    """

    id: str
    similarity: float
    score: float
    confidence: float
    serve: bool
    reason: str
    place: Vector = field(repr=False)


@dataclass(slots=True)
class _Entry:
    id: str
    prompt: Embedded
    learnt: Learnt


class Similar:
    """The entries of one scope."""

    def __init__(self, accepted: Accepted | None = None, evidence: Evidence | None = None) -> None:
        """Empty. `evidence`: what is known already of other entries."""
        self.accepted = accepted or Accepted()
        self._verifier = verifier()
        self._index = Index()
        self._evidence = Evidence() if evidence is None else evidence
        self._entries: dict[int, _Entry] = {}
        self._keys: dict[str, int] = {}
        self._next = 0
        self._looks, self._hits = _GUESSED_LOOKS, _GUESSED_HITS

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
        self._entries[key] = _Entry(entry, prompt, learnt or Learnt())
        self._index.add(key, prompt.vector)
        for outcome in self._entries[key].learnt.outcomes:
            self._witness(key, outcome)

    def remove(self, entry: str) -> None:
        """Remove an entry and what it has taught; nothing happens where there is none."""
        key = self._keys.pop(entry, None)
        if key is not None:
            del self._entries[key]
            self._index.remove(key)
            self._evidence.forget(key)

    def look(self, embedded: Embedded) -> Candidate | None:
        """The entry whose answer most likely fits, None where there is no entry."""
        near = self._index.nearest(embedded.vector, NEAREST)
        if not near:
            return None
        new = prompt(embedded, self._verifier.rarities)
        enough = len(self._evidence) >= ENOUGH
        around = self._evidence.around(embedded.vector) if enough else None
        found = [self._judged(self._entries[key], new, cosine, around) for key, cosine in near]
        best = max(found, key=lambda each: (each.serve, each.confidence, each.similarity))
        self._looks += 1
        self._hits += best.serve
        return best

    def learn(self, candidate: Candidate, *, correct: bool) -> Learnt:
        """Take in whether a candidate's answer was right, or would have been."""
        key = self._keys.get(candidate.id)
        if key is None:
            return Learnt()
        outcome = Outcome(candidate.similarity, candidate.score, correct, placed(candidate.place))
        self._entries[key].learnt = self._entries[key].learnt.having(outcome)
        self._witness(key, outcome)
        return self._entries[key].learnt

    @property
    def wrong(self) -> float:
        """The share of hits that may be wrong, so that of look-ups not too many are either."""
        return min(self.accepted.per_hit, self.accepted.per_lookup * self._looks / self._hits)

    def _witness(self, key: int, outcome: Outcome) -> None:
        cosine, correct = outcome.cosine, outcome.correct
        self._evidence.add(key, self._entries[key].prompt.vector, cosine, correct=correct)
        if outcome.place:
            self._evidence.add(key, outcome.vector(), cosine, correct=correct)

    def _judged(
        self, entry: _Entry, new: Prompt, cosine: float, around: Around | None
    ) -> Candidate:
        def said(score: float, *, serve: bool, reason: str) -> Candidate:
            sure = 1 / (1 + math.exp(-score))
            return Candidate(entry.id, cosine, score, sure, serve, reason, new.embedded.vector)

        same = _plain(new.embedded.text) == _plain(entry.prompt.text)
        if same:
            wrong = proven_wrong(entry.learnt, SURE)
            return said(SURE, serve=not wrong, reason="proven wrong" if wrong else "same words")
        if cosine < FARTHEST or new.embedded.truncated or entry.prompt.truncated:
            return said(-SURE, serve=False, reason="far")
        old = prompt(entry.prompt, self._verifier.rarities)
        differs = difference(new.facts, old.facts)
        if differs is not None:
            return said(-SURE, serve=False, reason=f"guard: {differs}")
        row, forest = features(new, old), self._verifier.alone
        if around is not None:
            there = self._evidence.around(entry.prompt.vector)
            row, forest = np.concatenate([row, around, there]), self._verifier.near
        score = forest.score(row)
        if proven_wrong(entry.learnt, score):
            return said(score, serve=False, reason="proven wrong")
        serve = judged(entry.learnt, score) >= forest.bar(self.wrong)
        return said(score, serve=serve, reason="alike" if serve else "unsure")


Around = np.ndarray[tuple[int], np.dtype[np.float64]]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .?!")
