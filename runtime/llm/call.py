"""One request on its way, and the stages it passes.

    identity → plan → structure → budget → cache → company → batch → targets → provider

A stage is a function of the call and of what comes behind it. What it has to do when all is over,
whether it went well or not, it leaves with `call.closing`, which is worked off before the last byte
of the answer is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seedbed.crds.errors import SeedbedError
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json

if TYPE_CHECKING:
    from seedbed.runtime.llm.company import Company


@dataclass(frozen=True, slots=True)
class Identity:
    """On whose behalf a call is made. A namespace is a tenant; the others are empty where not told."""

    namespace: str = "default"
    agent: str = ""
    workflow: str = ""
    run: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of asking one model; `outcome` is `ok`, an error's code, or why it was not asked."""

    model: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.model}={self.outcome}"


@dataclass(frozen=True, slots=True)
class Spent:
    """What one attempt cost.

    Attributes:
        nanos: nano-dollars.
        estimated: whether the provider did not say, so that the worst case is taken.
        cached_tokens: of the prompt's, those that the provider had kept.
    """

    model: str
    prompt_tokens: int
    completion_tokens: int
    nanos: int
    estimated: bool = False
    cached_tokens: int = 0


Afford = Callable[[str, int | None], Awaitable[None]]


async def _free(model: str, worst: int | None) -> None:
    """Where no budget pays."""


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way; equal only to itself.

    Attributes:
        deadline: of the event loop's clock.
        candidates: names of the models that may answer, the best one first; the plan sets them.
        attempts: what was asked and why not, in order.
        spent: what it has cost so far.
        refusal: set where no model may be asked any more; a cache may still answer.
        served_by: the model that answered, or `cache`.
        origin: the model that once gave an answer which the cache serves.
        task: class of tasks that routing learns for; empty for the Agent's name.
        floor: quality that routing has to meet; None for the models file's.
        headers: what the caller sent along; a stage reads its own.
        notes: what other stages tell the caller, by header name without `X-Seedbed-`.
        afford: awaited before each attempt with the model's name and the most that it can cost, None
            where nobody knows; raises where that may not be spent.
        accounted: whoever makes the call reserves and writes its money itself.
        company: the calls that the same request makes; None where it is alone.
    """

    request: ChatRequest | EmbeddingRequest
    identity: Identity
    deadline: float
    closing: AsyncExitStack
    candidates: tuple[str, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)
    refusal: SeedbedError | None = None
    served_by: str = ""
    origin: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    task: str = ""
    floor: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    afford: Afford = _free
    accounted: bool = False
    company: Company | None = None

    @property
    def model(self) -> str:
        """The model whose answer it is, also where the cache kept it."""
        return self.origin or self.served_by

    @property
    def cost(self) -> int:
        """Nano-dollars so far."""
        return sum(each.nanos for each in self.spent)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `whole`, or in `chunks` where the caller asked for a stream."""

    whole: Json | None = None
    chunks: AsyncIterator[Json] | None = None


Rest = Callable[[Call], Awaitable[Reply]]
Stage = Callable[[Call, Rest], Awaitable[Reply]]


def chained(stages: Sequence[Stage], last: Rest) -> Rest:
    """The stages in order, and what answers behind them."""
    rest = last
    for stage in reversed(stages):
        rest = _before(stage, rest)
    return rest


def _before(stage: Stage, rest: Rest) -> Rest:
    def passed(call: Call) -> Awaitable[Reply]:
        return stage(call, rest)

    return passed
