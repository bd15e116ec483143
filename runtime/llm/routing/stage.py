"""Routing's part of the chain: for requests to `auto`, which model is asked; and the cascade.

The cascade asks the cheap model, has it judge its own answer, and asks the next better one where the
confidence is below what the models file says. How much that judgement counts beside what was predicted
is learnt from answers that others have judged: see `confidence`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from seedbed.crds.errors import SeedbedError
from seedbed.runtime.llm.call import Call, Identity, Reply, Rest
from seedbed.runtime.llm.models import Routing
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest
from seedbed.runtime.llm.resilience.targets import Target
from seedbed.runtime.llm.routing.hardness import hardness, level
from seedbed.runtime.llm.routing.learning import Learning
from seedbed.runtime.llm.routing.marks import Marks, marks, packed, with_word
from seedbed.runtime.llm.routing.router import Wanted, route

_USUAL_ANSWER = 256
_BYTES_A_TOKEN = 4
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_JUDGE = (
    "Judge the answer above. How likely is it right and complete? "
    "Reply with one whole number from 0 to 100 and nothing else."
)


def _plenty(_: Identity) -> float:
    """Where no budget pays."""
    return 0.0


def _question(request: ChatRequest) -> str:
    """What the user said last: what stands before it is the same for all requests of a task."""
    said = [each.content for each in request.messages if each.role == "user" and each.content]
    return said[-1] if said else ""


class RoutingStage:
    """See the module; `targets` are the models by name."""

    def __init__(
        self,
        settings: Routing,
        targets: Mapping[str, Target],
        learning: Learning,
        chance: Callable[[], float],
        short: Callable[[Identity], float] = _plenty,
    ) -> None:
        """`short`: how far the money that pays for a caller has run out; see `wanted`."""
        self._settings = settings
        self._targets = targets
        self._learning = learning
        self._chance = chance
        self._short = short

    def plan(self, call: Call) -> None:
        """Put the candidates of a call to `auto` in order."""
        request = call.request
        if not isinstance(request, ChatRequest):
            return
        shown = marks(_question(request))
        wanted = self._wanted(call, request, shown)
        found = route(
            {name: self._cost(name, request) for name in call.candidates},
            self._learning.of(call.identity.namespace),
            wanted,
            explore=self._settings.explore,
            chance=self._chance(),
        )
        call.candidates = found.order
        first = found.predicted[found.order[0]]
        call.notes |= {
            "Task": wanted.task,
            "Hardness": str(wanted.level),
            "Marks": packed(shown),
            "Predicted": f"{first.quality:.2f}",
            "Route": found.reason,
        }

    def _wanted(self, call: Call, request: ChatRequest, shown: Marks) -> Wanted:
        """What the caller or the models file asks for, as far as there is money for it."""
        settings = self._settings
        floor = settings.floor if call.floor is None else call.floor
        loss = settings.loss
        if settings.when_short is not None and call.floor is None:
            short = self._short(call.identity)
            floor += (settings.when_short.floor - floor) * short
            loss += (settings.when_short.loss - loss) * short
            if short > 0:
                call.notes["Short"] = f"{short:.2f}"
        task = call.task or call.identity.agent or "general"
        return Wanted(task, level(hardness(request)), floor, loss, shown)

    def _cost(self, name: str, request: ChatRequest) -> int:
        """What it would usually cost; a model without a price is the dearest."""
        price = self._targets[name].facts.price
        if price is None:
            return 2**62
        return price.of(request.prompt_bytes() // _BYTES_A_TOKEN, request.limit or _USUAL_ANSWER)

    async def cascade(self, call: Call, rest: Rest) -> Reply:
        """The stage that escalates."""
        request, order = call.request, call.candidates
        if not self._applies(call) or not isinstance(request, ChatRequest):
            return await rest(call)
        predicted = float(call.notes["Predicted"])
        reply = await rest(call)
        word = await self._judged(call, request, reply, rest)
        known = self._learning.confidence(call.identity.namespace, call.model)
        confidence = known.of(predicted, word)
        call.notes["Confidence"] = f"{confidence:.2f}"
        better = tuple(name for name in order if name != call.model)
        if confidence >= self._settings.confidence or not better:
            # Who judges the answer sends this back: so the word's worth is learnt.
            call.notes["Marks"] = with_word(call.notes["Marks"], word)
            return reply
        call.attempts[-1] = replace(call.attempts[-1], outcome="escalated")
        first, origin = call.served_by, call.origin
        call.candidates = better
        try:
            return await rest(call)
        except SeedbedError:
            # An answer of which one is not sure is better than none.
            call.served_by, call.origin = first, origin
            return reply

    def _applies(self, call: Call) -> bool:
        return (
            self._settings.cascade
            and "Route" in call.notes
            and len(call.candidates) > 1
            and isinstance(call.request, ChatRequest)
            and not call.request.stream
        )

    async def _judged(self, call: Call, asked: ChatRequest, reply: Reply, rest: Rest) -> float:
        """What the model thinks of its own answer, 0 where it is no answer; half where it says nothing."""
        assert reply.whole is not None
        choice = reply.whole["choices"][0]
        text = choice["message"].get("content")
        if choice["message"].get("tool_calls"):
            return 1.0
        if not text or choice.get("finish_reason") == "length":
            return 0.0
        said = ChatMessage(role="assistant", content=text)
        judge = ChatMessage(role="user", content=_JUDGE)
        call.request = ChatRequest(
            model=asked.model,
            messages=(*asked.messages, said, judge),
            max_tokens=8,
            temperature=0,
            seed=asked.seed,
        )
        served, origin, notes = call.served_by, call.origin, dict(call.notes)
        candidates, call.candidates = call.candidates, (call.model,)
        found = None
        try:
            with suppress(SeedbedError):
                verdict = await rest(call)
                whole = verdict.whole or {}
                found = _NUMBER.search(whole["choices"][0]["message"].get("content") or "")
        finally:
            call.request, call.candidates, call.notes = asked, candidates, notes
            call.served_by, call.origin = served, origin
        return min(1.0, float(found[0]) / 100) if found else 0.5
