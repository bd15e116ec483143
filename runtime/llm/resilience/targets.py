"""Asks the candidates of a call in order: each behind its breaker and quota, with retries.

A request that fails because it is wrong ends at once. Everything else is tried again within the
target's retries and the call's deadline, then handed to the next candidate; what was tried and why
it failed stands in `call.attempts`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from seedbed.crds.errors import SeedbedError, UnavailableError
from seedbed.runtime.llm.call import Attempt, Call, Reply, Spent
from seedbed.runtime.llm.models import ModelEntry, ModelFacts
from seedbed.runtime.llm.notices import Notice, Notices, Tell
from seedbed.runtime.llm.prices import Price
from seedbed.runtime.llm.providers import Provider, RateLimitedError
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json
from seedbed.runtime.llm.resilience.breaker import Breaker, BreakerOpenError, BreakerPolicy, Pass
from seedbed.runtime.llm.resilience.quota import Quota
from seedbed.runtime.llm.resilience.retry import RetryPolicy, blames_target, classify, wait_before
from seedbed.runtime.llm.usage import MOST, audio_tokens, believable, cached_tokens

log = logging.getLogger(__name__)


class TooLateError(UnavailableError):
    """A model did not answer in the time there was."""

    code = "provider_timeout"


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, so that tests need neither wait nor guess."""

    now: Callable[[], float] = field(default_factory=lambda: asyncio.get_running_loop().time)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


class Target:
    """One model with all that protects it and those who ask it."""

    def __init__(
        self,
        entry: ModelEntry,
        provider: Provider,
        clock: Clock,
        *,
        tell: Tell | None = None,
    ) -> None:
        """`tell` is told of the breaker's transitions, and of a quota that runs out."""
        self.entry = entry
        self.facts: ModelFacts = entry.facts()
        self.provider = provider
        self.policy = RetryPolicy(entry.retries)
        self.quota = Quota(entry.quota.requests_per_minute, entry.quota.tokens_per_minute)
        settings = entry.breaker
        self.breaker = Breaker(
            BreakerPolicy(
                settings.share,
                settings.window_seconds,
                settings.minimum_calls,
                settings.rest_seconds,
            ),
            lambda state: self._tell(Notice("model.breaker", entry.name, {"state": state})),
        )
        self._tell = tell or Notices()
        self._clock = clock

    def now(self) -> float:
        """The clock that breaker and quota are told."""
        return self._clock.now()

    def heard(self, headers: Mapping[str, str]) -> None:
        """The provider's headers, which may tell of rate limits."""
        now = self._clock.now()
        self.quota.heard(headers, now)
        self._watch_quota(now)

    def worst_prompt(self, request: ChatRequest | EmbeddingRequest) -> int:
        """Tokens that the prompt has at most."""
        text = -(-request.prompt_bytes() // self.entry.bytes_per_token)
        if isinstance(request, EmbeddingRequest):
            return text if request.tokens is None else request.tokens
        return text + request.media().images * self.facts.image_tokens + self.worst_audio(request)

    def worst_audio(self, request: ChatRequest | EmbeddingRequest) -> int:
        """Tokens of the prompt that are sound, at most."""
        if isinstance(request, EmbeddingRequest):
            return 0
        return math.ceil(request.media().seconds * self.entry.audio_tokens_per_second)

    def worst_answer(self, request: ChatRequest | EmbeddingRequest) -> int:
        """Tokens that the answer has at most: such a limit goes along with the request."""
        if isinstance(request, EmbeddingRequest):
            return 0
        return request.n * (request.limit or self.facts.longest_answer)

    def worst_case(self, request: ChatRequest | EmbeddingRequest) -> int | None:
        """Nano-dollars that asking it once costs at most; None where its price is not known."""
        price = self.facts.price
        if price is None:
            return None
        prompt, answer = self.worst_prompt(request), self.worst_answer(request)
        return price.worst(prompt, answer, self.worst_audio(request))

    async def ask(self, call: Call, *, patience: float) -> Reply:
        """Ask until there is an answer or no hope.

        Args:
            call: its deadline holds.
            patience: seconds that may be waited for the quota.
        """
        retry = 0
        while True:
            held = await self._admitted(call, patience)
            try:
                return await self._once(call, held)
            except SeedbedError as error:
                call.attempts.append(Attempt(self.entry.name, error.code))
                if isinstance(error, RateLimitedError):
                    self.quota.refused(error.retry_after, self._clock.now())
                retry += 1
                left = call.deadline - self._clock.now()
                pause = wait_before(self.policy, retry, error, left, self._clock.chance())
                if pause is None:
                    raise
            await self._clock.sleep(pause)

    async def _admitted(self, call: Call, patience: float) -> Pass:
        name = self.entry.name
        expected = self._expected(call.request)
        while True:
            now = self._clock.now()
            wait = self.quota.wait(expected, now)
            if wait <= 0:
                break
            if wait > min(patience, call.deadline - now):
                call.attempts.append(Attempt(name, "quota_used"))
                told = min(wait, 60.0)
                raise RateLimitedError(name, "its quota is used up for now", told)
            await self._clock.sleep(wait)
        if (rest := self.breaker.wait(now)) > 0:
            call.attempts.append(Attempt(name, BreakerOpenError.code))
            raise BreakerOpenError(name, rest)
        try:
            await call.afford(name, self.worst_case(call.request))
        except SeedbedError as error:
            call.attempts.append(Attempt(name, error.code))
            raise
        held = self.breaker.admit(now)
        if held is None:
            call.attempts.append(Attempt(name, BreakerOpenError.code))
            raise BreakerOpenError(name, self.breaker.wait(now))
        self.quota.take(expected, now)
        self._watch_quota(now)
        return held

    def _watch_quota(self, now: float) -> None:
        for unit, used in self.quota.alerts(now).items():
            facts: dict[str, str | float] = {"unit": unit, "used": round(used, 3)}
            self._tell(Notice("model.quota", self.entry.name, facts))

    def _expected(self, request: ChatRequest | EmbeddingRequest) -> int:
        """Tokens that count against the quota until it is known how many they are."""
        text = request.prompt_bytes() // 4
        if isinstance(request, EmbeddingRequest):
            return text
        return text + request.media().usual_tokens() + request.n * (request.limit or 0)

    async def _once(self, call: Call, held: Pass) -> Reply:
        """One attempt; the breaker is told of every way in which it can end."""
        run = _Run(self, call, held, self._clock)
        left = min(self.entry.timeout_seconds, call.deadline - self._clock.now())
        try:
            async with asyncio.timeout(max(0.0, left)):
                if isinstance(call.request, EmbeddingRequest):
                    whole = await self.provider.embed(call.request)
                elif call.request.stream:
                    return await self._streamed(call.request, run)
                else:
                    whole = await self.provider.complete(self.limited(call.request))
        except TimeoutError:
            error = TooLateError(f"model {self.entry.name!r}: no answer within {left:.0f} s")
            run.failed(error, unknown=True)
            raise error from None
        except SeedbedError as error:
            run.failed(error)
            raise
        except BaseException:
            run.abandoned()
            raise
        run.went_well(whole.get("usage"))
        return Reply(whole=whole)

    async def _streamed(self, request: ChatRequest, run: _Run) -> Reply:
        """Begins a stream; it is an answer once its first chunk is there."""
        source = self.provider.stream(self.limited(request))
        try:
            first = await anext(source, None)
        except BaseException:
            await source.aclose()
            raise
        chunks = run.followed(source, first)
        run.call.closing.push_async_callback(run.close, chunks)
        return Reply(chunks=chunks)

    def limited(self, request: ChatRequest) -> ChatRequest:
        """The request with the limit that its worst case is reckoned with, where it costs money."""
        if request.limit or self.facts.price == Price():
            return request
        return request.model_copy(update={"max_tokens": self.facts.longest_answer})


class _Run:
    """One attempt under way: says once how it ended, to breaker, quota and ledger."""

    def __init__(self, target: Target, call: Call, held: Pass, clock: Clock) -> None:
        self.call = call
        self._target = target
        self._held = held
        self._clock = clock
        self._bytes = 0
        self._over = False

    async def followed(
        self, source: AsyncGenerator[Json, None], first: Json | None
    ) -> AsyncGenerator[Json, None]:
        """The chunks of a stream, watched."""
        usage: Json | None = None
        name = self._target.entry.name
        try:
            chunk = first
            while chunk is not None:
                usage = chunk.get("usage") or usage
                self._bytes += sum(
                    len((choice.get("delta") or {}).get("content") or "")
                    for choice in chunk.get("choices") or ()
                )
                yield chunk
                async with asyncio.timeout(self._target.entry.timeout_seconds):
                    chunk = await anext(source, None)
        except TimeoutError:
            error = TooLateError(f"model {name!r}: the stream stands still")
            self._broke_off(error)
            raise error from None
        except SeedbedError as error:
            self._broke_off(error)
            raise
        else:
            self.went_well(usage)
        finally:
            await source.aclose()

    def _broke_off(self, error: SeedbedError) -> None:
        self.call.attempts.append(Attempt(self._target.entry.name, error.code))
        self.failed(error, unknown=True)

    async def close(self, chunks: AsyncGenerator[Json, None]) -> None:
        """The call is over: a stream that was not read to its end was given up."""
        await chunks.aclose()
        self.abandoned()

    def went_well(self, usage: Json | None) -> None:
        if self._ends():
            name = self._target.entry.name
            self._target.breaker.ended(self._held, self._clock.now(), well=True)
            self._spend(usage)
            self.call.attempts.append(Attempt(name, "ok"))
            self.call.served_by = name

    def failed(self, error: SeedbedError, *, unknown: bool = False) -> None:
        """`unknown` where the provider may have done the work and want its money."""
        if self._ends():
            well = not blames_target(error)
            self._target.breaker.ended(self._held, self._clock.now(), well=well)
            if unknown:
                self._spend(None)
            else:
                self._count(0)

    def abandoned(self) -> None:
        if self._ends():
            self._target.breaker.abandoned(self._held)
            self.call.attempts.append(Attempt(self._target.entry.name, "cancelled"))
            self._spend(None)

    def _ends(self) -> bool:
        first, self._over = not self._over, True
        return first

    def _spend(self, usage: Json | None) -> None:
        target, request = self._target, self.call.request
        told = believable(usage) or {}
        prompt = told.get("prompt_tokens")
        answer = told.get("completion_tokens", 0)
        estimated = not isinstance(prompt, int) or not isinstance(answer, int)
        if estimated:
            prompt = target.worst_prompt(request)
            answer = self._bytes or target.worst_answer(request)
        assert isinstance(prompt, int)
        price = target.facts.price or Price()
        cached, kept = cached_tokens(told, prompt)
        audio = audio_tokens(told, min(prompt, target.worst_audio(request)))
        nanos = price.of(prompt, answer, cached, kept, audio)
        if estimated:
            nanos = price.worst(prompt, answer, audio)
        counted = min(prompt, MOST), min(answer, MOST)
        self.call.spent.append(Spent(target.entry.name, *counted, nanos, estimated, cached))
        self._count(prompt + answer)

    def _count(self, tokens: int) -> None:
        expected = self._target._expected(self.call.request)  # noqa: SLF001 - one thing in two parts
        self._target.quota.correct(expected, tokens, self._clock.now())


class Targets:
    """The end of the chain: asks one candidate after the other."""

    def __init__(self, targets: Mapping[str, Target], clock: Clock) -> None:
        self._targets = targets
        self._clock = clock

    async def answer(self, call: Call) -> Reply:
        """The first candidate's answer that is one.

        Raises:
            SeedbedError: the last candidate's failure, or why none may be asked.
        """
        failure = call.refusal or UnavailableError("no model may answer")
        names = () if call.refusal else call.candidates
        for number, name in enumerate(names, 1):
            target = self._targets[name]
            left = call.deadline - self._clock.now()
            patience = left if number == len(names) else target.policy.longest
            try:
                return await target.ask(call, patience=patience)
            except SeedbedError as error:
                if classify(error) == "caller" or call.refusal is not None:
                    raise
                failure = error
                if number < len(names):
                    log.warning("%s; %s is asked instead", error, names[number])
        raise failure
