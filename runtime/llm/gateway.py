"""Puts the parts of the model service together: models, what protects them, and the stages before.

Whoever asks gives a request and an identity, and gets an answer or a typed error; HTTP stands in
front of it (`service`), and nothing here knows of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from seedbed.crds.budget import Budget
from seedbed.crds.errors import NotFoundError
from seedbed.runtime.llm.batch.batched import batched
from seedbed.runtime.llm.batch.collapse import CollapseStage
from seedbed.runtime.llm.cache.embedder import EmbeddingService
from seedbed.runtime.llm.call import Call, Identity, Reply, Rest, Stage, chained
from seedbed.runtime.llm.company import together
from seedbed.runtime.llm.litellm_provider import LiteLLMModel
from seedbed.runtime.llm.local import LocalModel
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.llm.minilm import MiniLmModel
from seedbed.runtime.llm.models import AUTO, DEFAULT, ModelEntry, Models
from seedbed.runtime.llm.notices import Notices
from seedbed.runtime.llm.openai_provider import OpenAIModel
from seedbed.runtime.llm.programs import PREFIX, Programs
from seedbed.runtime.llm.prompts.stage import PromptStage
from seedbed.runtime.llm.providers import Provider
from seedbed.runtime.llm.resilience.targets import Clock, Target, Targets
from seedbed.runtime.llm.routing.learning import Learning
from seedbed.runtime.llm.routing.stage import RoutingStage
from seedbed.runtime.llm.selection import choose, need_of
from seedbed.runtime.llm.structure import structured

_LONGEST_NAME = 256
"""Of a name that nobody has, in an error."""


class UnknownModelError(NotFoundError):
    """No model has that name."""

    code = "model_not_found"
    field = "model"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__("model", name[:_LONGEST_NAME])
        self.message = f"{self.message}; there are {', '.join(known)}"


def provider_of(entry: ModelEntry) -> Provider:
    """What answers for an entry of the models file; not started yet."""
    if entry.provider == "local":
        return LocalModel(entry)
    if entry.provider == "minilm":
        return MiniLmModel(entry)
    return OpenAIModel(entry) if entry.provider == "openai" else LiteLLMModel(entry)


def providers_of(models: Models) -> dict[str, Provider]:
    """Providers by the name callers ask for; `default` is there too."""
    found = {entry.name: provider_of(entry) for entry in models.models}
    return {**found, DEFAULT: found[models.first]}


class Gateway:
    """Answers requests with the models of a models file.

    Attributes:
        targets: the models by name, each with its breaker and quota.
        metrics: what it counts.
        notices: tells what people and programs are to know.
        learning: what is known of the models' answers.
        short: how far the money that pays for a caller has run out, from 0 to 1.
        budgets: the budgets that pay for a caller, by account.
        spent: is told the accounts that have spent without the budget's stage.
        programs: answers for Agents, where there are workers.
        prompts: what is known of prompts that repeat.
        stages: what stands between the choice of models and asking them, the outermost first.
    """

    def __init__(
        self,
        models: Models,
        *,
        clock: Clock | None = None,
        providers: Mapping[str, Provider] | None = None,
    ) -> None:
        self.models = models
        self.stages: list[Stage] = []
        self.short: Callable[[Identity], float] = lambda _: 0.0
        self.budgets: Callable[[Identity], Mapping[str, Budget]] = lambda _: {}
        self.spent: Callable[[Iterable[str]], None] = lambda _: None
        self.metrics = ModelMetrics()
        self.notices = Notices()
        self.notices.also(self.metrics.noticed)
        self._clock = clock or Clock(asyncio.get_running_loop().time)
        found = providers or providers_of(models)
        self.targets = {
            entry.name: Target(
                entry,
                batched(entry, found[entry.name], models.batching, self.metrics.gathered),
                self._clock,
                tell=self.notices,
            )
            for entry in models.models
        }
        for target in self.targets.values():
            self.metrics.watch(target)
            asked = found[target.entry.name]
            if isinstance(asked, OpenAIModel):
                asked.heard = target.heard
        self._facts = {name: target.facts for name, target in self.targets.items()}
        stated = {e.name: e.quality for e in models.models if e.quality is not None}
        self.learning = Learning(stated)
        self.programs: Programs | None = None
        self._last: Rest = Targets(self.targets, self._clock).answer
        self._answer: Rest = self._last
        compressing = models.prompts.compression is not None
        self._embedder = EmbeddingService() if compressing else None
        self.prompts = PromptStage(models.prompts, self.targets, self.metrics, self._embedder)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The models are ready while the context is open; `stages` stay as they are by now."""
        self._router = RoutingStage(
            self.models.routing, self.targets, self.learning, self._clock.chance, self.short
        )
        cascade = self._router.cascade
        shared = CollapseStage(self.models.batching, self._clock, self.metrics)
        before = (self._planned, structured, cascade)
        behind = (together, self.prompts, shared)
        self._answer = chained((*before, *self.stages, *behind), self._last)
        async with AsyncExitStack() as started:
            for target in self.targets.values():
                started.push_async_callback(target.provider.close)
                await target.provider.start()
            await started.enter_async_context(shared.running())
            if self._embedder is not None:
                await started.enter_async_context(self._embedder)
            yield

    def names(self, namespace: str) -> list[str]:
        """The names that a namespace's callers may ask for."""
        found = [entry.name for entry in self.open(namespace)]
        return sorted({*found, *([DEFAULT] if found else []), *([AUTO] if len(found) > 1 else [])})

    def open(self, namespace: str) -> list[ModelEntry]:
        """The models that are there for a namespace's callers."""
        return [entry for entry in self.models.models if entry.serves(namespace)]

    def now(self) -> float:
        """The clock that deadlines are told in."""
        return self._clock.now()

    def reachable(self, name: str) -> bool:
        """Whether a model would be asked now: its breaker lets it be."""
        return self.targets[name].breaker.wait(self._clock.now()) <= 0

    def named(self, asked: str, namespace: str) -> str:
        """The model that a namespace's caller means.

        Raises:
            UnknownModelError: where there is none.
        """
        if self.programs is not None and asked.startswith(PREFIX):
            return asked
        known = [entry.name for entry in self.open(namespace)]
        name = asked
        if known and (asked == DEFAULT or self._routed(asked)):
            # Its place in the file says who stands in for whom; the router sets the order.
            name = self.models.first if self.models.first in known else known[0]
        if name not in known:
            raise UnknownModelError(asked, self.names(namespace))
        return name

    def _routed(self, asked: str) -> bool:
        """Whether the choice of the model is left to the service."""
        meant = self.models.default if asked == DEFAULT else asked
        return meant == AUTO and AUTO not in self.targets

    async def answer(self, call: Call) -> Reply:
        """An answer, or the error that says why there is none."""
        return await self._answer(call)

    async def _planned(self, call: Call, rest: Rest) -> Reply:
        """The stage that says which models may answer."""
        name = self.named(call.request.model, call.identity.namespace)
        if self.programs is not None and name.startswith(PREFIX):
            return await self.programs.answer(call)
        self.plan(call)
        return await rest(call)

    def plan(self, call: Call) -> None:
        """Say which models may answer a call; an Agent's has none.

        Raises:
            InvalidError: where no model can do it, naming the field that asks for it.
        """
        name = self.named(call.request.model, call.identity.namespace)
        if name not in self.targets:
            return
        choice = choose(
            self.open(call.identity.namespace), self._facts, name, need_of(call.request)
        )
        call.candidates = choice.candidates
        if self._routed(call.request.model):
            self._router.plan(call)
        call.attempts += choice.passed_over
