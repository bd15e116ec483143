"""Which cached prompt means the same as a new one, if any: one `Similar` for each scope.

The nearest entries by cosine are candidates. The guard refuses those that differ in a fact; the
verifier says how likely the others mean the same, also by what their neighbourhoods have been proven
right or wrong in; what the entry itself has taught moves that. A likeness that meets what the user
accepts is a hit. Hits are served where the namespace's verified ones are proof enough. Where they are
not, because it is too early or because what is the same is disputed, the neighbourhood has to speak for
it as well, in scopes with enough outcomes; and where such hits turn out wrong too often the bar rises.
All others are asked anyway.

    found = cache.look(prompt)             # None in an empty scope
    if found is not None and found.serve:  # the answer of entry found.id
        ...
    learnt = cache.learn(found, correct=True)   # keep it: add(..., learnt) brings it back

Everything is in memory and a look takes a few milliseconds, without the embedding, which `embedder`
computes beforehand. An entry takes about 10 KB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np

from seedbed.runtime.llm.cache.embedder import Embedded
from seedbed.runtime.llm.cache.evidence import Evidence
from seedbed.runtime.llm.cache.features import Prompt, features, prompt
from seedbed.runtime.llm.cache.guard import WEIGHED, difference
from seedbed.runtime.llm.cache.index import Index, Vector
from seedbed.runtime.llm.cache.proof import Proof
from seedbed.runtime.llm.cache.threshold import SURE, Learnt, Outcome, judged, placed, proven_wrong
from seedbed.runtime.llm.cache.verifier import verifier

NEAREST = 3
"""Candidates that are looked at."""
FAR, FARTHEST = 0.7, 0.6
"""Cosine below which nothing is alike, and below which not even what was proven around is asked."""
ENOUGH = 2000
"""Places of outcomes from which on the neighbourhood is asked."""
_STEP = 0.25
"""How much of log-odds one wrong hit raises the bar; 1 / accepted right ones lower it again."""
LEARNT, UNSURE, UNPROVEN, GUARD = "learnt", "unsure", "unproven", "guard: "
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
        reason: `same words`, `learnt` (by what was proven around), `alike`, or why it may not: `unproven`
            (it is alike, and too few hits were verified), `guard: number`, `unsure`, `proven wrong`, `far`.
        place: the new prompt's vector; `learn` wants it back.
    """

    id: str
    similarity: float
    score: float
    confidence: float
    serve: bool
    reason: str
    place: Vector = field(repr=False)

    @property
    def hit(self) -> bool:
        """Whether the likeness suffices, served or not yet."""
        return self.serve or self.reason == UNPROVEN


@dataclass(slots=True)
class _Entry:
    id: str
    prompt: Embedded
    learnt: Learnt


class Similar:
    """The entries of one scope."""

    def __init__(
        self,
        accepted: Accepted | None = None,
        evidence: Evidence | None = None,
        proof: Proof | None = None,
    ) -> None:
        """Empty. `evidence`: what is known already of other entries. `proof`: of the namespace."""
        self.accepted = accepted or Accepted()
        self._proof = proof or Proof(self.accepted.per_hit)
        self._raised = 0.0
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
            self._prove(outcome)

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
        around = None
        if len(self._evidence) >= ENOUGH and not self._proof.holds:
            around = cache(partial(self._evidence.around, embedded.vector))
        found = [self._judged(self._entries[key], new, cosine, around) for key, cosine in near]
        best = max(found, key=lambda each: (each.serve, each.hit, each.confidence, each.similarity))
        self._looks += 1
        self._hits += best.hit
        return best

    def learn(self, candidate: Candidate, *, correct: bool) -> Learnt:
        """Take in whether a candidate's answer was right, or would have been."""
        key = self._keys.get(candidate.id)
        if key is None:
            return Learnt()
        informed = candidate.reason == LEARNT
        outcome = Outcome(
            candidate.similarity, candidate.score, correct, placed(candidate.place), informed
        )
        self._entries[key].learnt = self._entries[key].learnt.having(outcome)
        self._witness(key, outcome)
        self._prove(outcome)
        if informed:
            moved = _STEP * ((not correct) - self.accepted.per_hit)
            self._raised = max(0.0, self._raised + moved)
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

    def _prove(self, outcome: Outcome) -> None:
        """Take in what would have been a hit without knowing anything of its surroundings."""
        bar = self._verifier.alone.bar(self.accepted.per_hit)
        if outcome.score >= bar and not outcome.informed:
            self._proof.add(correct=outcome.correct)

    def _judged(
        self, entry: _Entry, new: Prompt, cosine: float, around: Callable[[], Around] | None
    ) -> Candidate:
        def said(score: float, *, serve: bool, reason: str) -> Candidate:
            sure = 1 / (1 + math.exp(-score))
            return Candidate(entry.id, cosine, score, sure, serve, reason, new.embedded.vector)

        same = _plain(new.embedded.text) == _plain(entry.prompt.text)
        if same:
            wrong = proven_wrong(entry.learnt, SURE)
            return said(SURE, serve=not wrong, reason="proven wrong" if wrong else "same words")
        farthest = FAR if around is None else FARTHEST
        if cosine < farthest or new.embedded.truncated or entry.prompt.truncated:
            return said(-SURE, serve=False, reason="far")
        old = prompt(entry.prompt, self._verifier.rarities)
        differs = difference(new.facts, old.facts)
        if differs is not None and differs not in WEIGHED:
            return said(-SURE, serve=False, reason=f"{GUARD}{differs}")
        row, learnt = features(new, old), entry.learnt
        score = self._verifier.alone.score(row)
        likely = differs is None and judged(learnt, score) >= self._verifier.alone.bar(self.wrong)
        if around is not None:
            there = self._evidence.around(entry.prompt.vector)
            informed = self._verifier.near.score(np.concatenate([row, around(), there]))
            bar = self._verifier.near.bar(self.wrong) + self._raised
            if judged(learnt, informed) >= bar and not proven_wrong(learnt, informed):
                return said(informed, serve=True, reason=LEARNT)
        if differs is not None:
            return said(-SURE, serve=False, reason=f"{GUARD}{differs}")
        if proven_wrong(learnt, score):
            return said(score, serve=False, reason="proven wrong")
        if cosine < FAR:
            return said(-SURE, serve=False, reason="far")
        if not likely:
            return said(score, serve=False, reason=UNSURE)
        proven = self._proof.holds
        return said(score, serve=proven, reason="alike" if proven else UNPROVEN)


Around = np.ndarray[tuple[int], np.dtype[np.float64]]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .?!")
