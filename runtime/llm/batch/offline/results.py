"""What a provider's batch says of lines, as the lines' results with what they cost. Pure but `keep`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import orjson

from seedbed.runtime.llm.batch.offline.job import Job
from seedbed.runtime.llm.batch.offline.lines import CANCELLED, EXPIRED, Told, told_by_provider
from seedbed.runtime.llm.batch.offline.money import entry
from seedbed.runtime.llm.batch.offline.sorting import failure, keep, success
from seedbed.runtime.llm.call import Attempt, Call, Spent
from seedbed.runtime.llm.endpoints import Request
from seedbed.runtime.llm.openai_provider import wrong_chat, wrong_vectors
from seedbed.runtime.llm.prices import Price, table_version
from seedbed.runtime.llm.providers import MalformedError
from seedbed.runtime.llm.requests import ChatRequest, Json
from seedbed.runtime.llm.usage import audio_tokens, believable, cached_tokens
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import LineRow
from seedbed.runtime.store.ledger import LedgerEntry

_OK, _NO_ANSWER = 200, 502
_NOT_DONE = {"batch_expired": EXPIRED, "batch_cancelled": CANCELLED}
Answered = Told


@dataclass(frozen=True, slots=True)
class LineTold:
    """The result of a line.

    Attributes:
        worst: nano-dollars that were held for it.
        entry: what the ledger keeps; None where it cost nothing.
        answer: to keep for equal requests; None where there is none.
    """

    result: LineResult
    request: Request
    worst: int
    entry: LedgerEntry | None = None
    answer: Json | None = None
    call: Call | None = None


class Results:
    """Reads the results of one model's provider."""

    def __init__(self, job: Job, model: str) -> None:
        self._job = job
        self._model = model
        self._target = job.bench.gateway.targets[model]
        self.price = self._target.facts.batch_price

    def worst(self, request: Request) -> int | None:
        """Nano-dollars that a line costs at most; None where the price is not known."""
        if self.price is None:
            return None
        target = self._target
        prompt, answer = target.worst_prompt(request), target.worst_answer(request)
        return self.price.worst(prompt, answer, target.worst_audio(request))

    def limited(self, request: Request) -> Request:
        """The request with the limit that its worst case is reckoned with."""
        if not isinstance(request, ChatRequest):
            return request
        return self._target.limited(request)

    def read(self, lines: Sequence[bytes]) -> dict[int, Told]:
        """What lines of the provider's file say, by our lines' numbers."""
        found = (told_by_provider(line) for line in lines if line.strip())
        return {told.number: told for told in found if told is not None}

    def of(self, row: LineRow, told: Told) -> LineTold:
        """One line's result."""
        request = self._job.endpoint.read(row.body)
        worst = self.worst(request) or 0
        if told.status != _OK:
            return LineTold(self._refused(row, told), request, worst)
        held_to = wrong_chat if isinstance(request, ChatRequest) else wrong_vectors
        if wrong := held_to(told.body):
            error = MalformedError(self._model, wrong)
            return LineTold(failure(row.number, error, "provider"), request, worst)
        answer = {**told.body, "model": self._model}
        spent, saved = self._spent(request, answer)
        gateway = self._job.bench.gateway
        call = Call(request, self._job.identity, gateway.now(), AsyncExitStack())
        call.spent.append(spent)
        call.attempts.append(Attempt(self._model, "ok"))
        call.served_by = self._model
        gateway.metrics.spent(call)
        result = success(self._job, row.number, "provider", answer, call, saved=saved)
        now, prices = self._job.bench.wall(), f"{table_version()};batch"
        kept = entry(self._job.identity, self._job.id, spent, prices, now)
        return LineTold(result, request, worst, kept, answer, call)

    async def keep(self, line: LineTold) -> None:
        """Keep an answer for equal requests."""
        if line.answer is not None and line.call is not None:
            await keep(self._job, line.request, self._model, line.answer, line.call)

    def _refused(self, row: LineRow, told: Told) -> LineResult:
        error = told.body.get("error") or {}
        status = told.status
        if not status:
            status = _NOT_DONE.get(str(error.get("code")), _NO_ANSWER)
        way = "" if status in _NOT_DONE.values() else "provider"
        return LineResult(row.number, way, status, orjson.dumps(told.body))

    def _spent(self, request: Request, answer: Json) -> tuple[Spent, int]:
        """What a line has cost, and how much more it would have by itself."""
        usage = believable(answer.get("usage")) or {}
        target, price = self._target, self.price or Price()
        full = target.facts.price or Price()
        prompt, said = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
        if not isinstance(prompt, int) or not isinstance(said, int):
            prompt, said = target.worst_prompt(request), target.worst_answer(request)
            cost = price.worst(prompt, said, target.worst_audio(request))
            return Spent(self._model, prompt, said, cost, estimated=True), 0
        cached, kept = cached_tokens(usage, prompt)
        audio = audio_tokens(usage, min(prompt, target.worst_audio(request)))
        cost = price.of(prompt, said, cached, kept, audio)
        saved = max(0, full.of(prompt, said, cached, kept, audio) - cost)
        return Spent(self._model, prompt, said, cost, cached_tokens=cached), saved
