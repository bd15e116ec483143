"""The semantic tier: the kept answer that may serve a similar request, and what is learnt of it."""

from __future__ import annotations

from dataclasses import dataclass

from seedbed.runtime.llm.cache.alike import Alike, scope_of
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.cache.embedder import Embedded
from seedbed.runtime.llm.cache.judging import Judging, Trial
from seedbed.runtime.llm.cache.shelf import Shelf
from seedbed.runtime.llm.cache.similar import Candidate
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json
from seedbed.runtime.store.answers import AnswerRow


@dataclass(frozen=True, slots=True)
class Compared:
    """A request and the kept answer that comes closest.

    Attributes:
        scope: 64 hexadecimal digits.
        prompt: the words that vary, as they are compared.
        candidate: None where there is none, or only one whose time has run out.
        row: the candidate's.
    """

    scope: str
    prompt: Embedded
    candidate: Candidate | None = None
    row: AnswerRow | None = None

    @property
    def serves(self) -> AnswerRow | None:
        """The answer, where it is likely enough to be right."""
        return self.row if self.candidate is not None and self.candidate.serve else None

    @property
    def unproven(self) -> bool:
        """Whether there is such an answer, and hits like it have yet to be verified."""
        found = self.candidate
        return self.row is not None and found is not None and found.hit and not found.serve


class Semantic:
    """See the module."""

    def __init__(self, alike: Alike, shelf: Shelf, judging: Judging, counting: Counting) -> None:
        self._alike = alike
        self._shelf = shelf
        self._judging = judging
        self._counting = counting

    async def compare(
        self, namespace: str, model: str, request: ChatRequest | EmbeddingRequest, at: float
    ) -> Compared | None:
        """The request and what comes closest at a Unix time; None where only equal requests count."""
        found = scope_of(namespace, model, request)
        if found is None:
            return None
        scope, text = found
        prompt = await self._alike.embedded(text)
        if prompt is None:
            self._counting.busy(namespace)
            return None
        candidate = self._alike.look(scope, prompt)
        if (candidate is None or not candidate.serve) and await self._shelf.closest(
            namespace, scope, prompt.vector.tobytes()
        ):
            candidate = self._alike.look(scope, prompt)
        row = self._shelf.held(candidate.id) if candidate is not None else None
        if candidate is None or row is None:
            return Compared(scope, prompt)
        if at >= row.expires_at:
            # Equal requests may still get it where no model answers; it hides no fresh one here.
            self._alike.remove(row)
            return Compared(scope, prompt)
        return Compared(scope, prompt, candidate, row)

    def told(self, compared: Compared, prompt: str, fresh: Json) -> None:
        """What the model said: whether the candidate would have been right is learnt from it.

        Args:
            compared: the request.
            prompt: its hash; nothing is learnt from its own earlier answer.
            fresh: the model's answer.
        """
        candidate, row = compared.candidate, compared.row
        if candidate is None or row is None or row.prompt_hash == prompt:
            return
        self._judging.put(Trial(row, candidate, fresh, measured=candidate.hit))
