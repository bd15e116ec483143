"""Cached answers in the store, what was counted of them, and the outcomes that semantic hits had.

An answer may be lost without harm: the model is asked again. So rows are written in batches, behind
the requests, and a row that exists is replaced by a newer one.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One cached answer.

    Attributes:
        id: unique.
        model: the one that gave the answer.
        prompt_hash: 64 hexadecimal digits of all that the model was asked.
        scope: 64 hexadecimal digits of what similar requests have to share; empty where only an
            equal request may get the answer.
        text: what similar requests are compared by.
        answer: the body, as JSON.
        nanos: nano-dollars that it cost.
        created_at, expires_at: Unix times.
        hits: times it was served.
        tags: by which it can be invalidated.
        embedding: 384 numbers as float32, empty where there are none.
        learnt: what verified hits have taught, as JSON; empty for nothing.
    """

    id: str
    namespace: str
    model: str
    prompt_hash: str
    scope: str
    text: str
    answer: bytes
    nanos: int
    prompt_tokens: int
    completion_tokens: int
    created_at: float
    expires_at: float
    hits: int = 0
    tags: tuple[str, ...] = ()
    embedding: bytes = field(default=b"", repr=False)
    learnt: bytes = b""

    @property
    def key(self) -> AnswerKey:
        """By what an equal request finds it."""
        return (self.namespace, self.model, self.prompt_hash)


AnswerKey = tuple[str, str, str]
"""Namespace, model, hash of the prompt."""
