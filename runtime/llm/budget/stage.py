"""The budget's part of the chain: money is reserved before each attempt, and what it cost is written.

The reservation comes with the attempt, not with the call: the models that may answer differ in price,
and an answer out of the cache costs nothing. An answer is given once its cost is durable.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from seedbed.crds.budget import Budget
from seedbed.crds.errors import TerminalError
from seedbed.runtime.llm.budget.limits import Limits, accounts_of
from seedbed.runtime.llm.budget.teller import BudgetExceededError, Teller
from seedbed.runtime.llm.call import Call, Identity, Reply, Rest
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.store.ledger import LedgerEntry

Worst = Callable[[Call, str], int | None]
"""Gives the most that asking a model can cost, None where its price is not known."""


class UnpricedError(TerminalError):
    """A budget pays for the call, and nobody knows what the model costs."""

    code = "unpriced"


class BudgetStage:
    """See the module.

    Args:
        worst: the worst case of asking a model by its name.
        refused: told after a budget has refused a call.
        prices: version of the price table, for the ledger.
    """

    def __init__(
        self,
        limits: Limits,
        teller: Teller,
        *,
        worst: Worst,
        prices: str,
        metrics: ModelMetrics,
        refused: Callable[[], Awaitable[None]],
    ) -> None:
        self._limits = limits
        self._teller = teller
        self._worst = worst
        self._prices = prices
        self._metrics = metrics
        self._refused = refused
        self._bills: dict[Call, _Bill] = {}
        """Of calls that have company."""

    async def __call__(self, call: Call, rest: Rest) -> Reply:
        """The stage."""
        if call.accounted:
            return await rest(call)
        budgets = self._limits.of(call.identity)
        bill = _Bill(self._teller, call, budgets, self._prices)
        # Worked off after what the targets leave there, so that every attempt is in it.
        call.closing.push_async_callback(bill.settle)
        if budgets and call.company is not None:
            self._bills[call] = bill
            call.closing.callback(self._bills.pop, call, None)
        if budgets:
            call.afford = self._afforded(call, bill, budgets)
            if self._runs_out(budgets):
                call.candidates = tuple(sorted(call.candidates, key=self._price_of(call)))
                call.notes["Budget"] = "cheaper"
        reply = await rest(call)
        if reply.chunks is None:
            await bill.settle()
        return reply

    def short(self, identity: Identity) -> float:
        """How far the budgets that pay for a caller have run out: 0 up to `alertAt`, 1 at `haltAt`."""
        found = 0.0
        for account, budget in self._limits.of(identity).items():
            beyond = self._teller.spent(account) - budget.alert_nanos
            room = budget.halt_nanos - budget.alert_nanos
            if beyond >= 0:
                found = max(found, min(1.0, beyond / room) if room > 0 else 1.0)
        return found

    def _runs_out(self, budgets: Mapping[str, Budget]) -> bool:
        return any(
            budget.policy == "Cheaper" and self._teller.spent(account) >= budget.alert_nanos
            for account, budget in budgets.items()
        )

    def _price_of(self, call: Call) -> Callable[[str], float]:
        def price(model: str) -> float:
            worst = self._worst(call, model)
            return float("inf") if worst is None else worst

        return price

    def _afforded(
        self, call: Call, bill: _Bill, budgets: Mapping[str, Budget]
    ) -> Callable[[str, int | None], Awaitable[None]]:
        async def afford(model: str, worst: int | None) -> None:
            if worst is None:
                raise UnpricedError(f"model {model!r} has no price, and a budget pays for the call")
            began = time.perf_counter()
            try:
                await self._reserved(call, bill, model, worst)
            except BudgetExceededError as error:
                self._metrics.budget_refused.labels(call.identity.namespace).inc()
                await self._refused()
                if budgets[error.account].policy == "Halt":
                    call.refusal = error
                raise
            finally:
                self._metrics.budget_check.observe(time.perf_counter() - began)

        return afford

    async def _reserved(self, call: Call, bill: _Bill, model: str, worst: int) -> None:
        """Reserve for a call, and the first time for all that the same request makes."""
        company = call.company
        if company is None or company.paid:
            await bill.reserve({bill: worst})
            return
        async with company.paying:
            others = set() if company.paid else await company.asking() - {call}
            bills = {each: self._bills[each] for each in others if each in self._bills}
            worsts = {of: self._worst(each, model) or 0 for each, of in bills.items()}
            await bill.reserve({bill: worst, **worsts})
            company.paid = True


class _Bill:
    """The money of one call: what is reserved for it, and what it has cost."""

    def __init__(
        self, teller: Teller, call: Call, budgets: Mapping[str, Budget], prices: str
    ) -> None:
        self._teller = teller
        self._call = call
        self._budgets = budgets
        self._prices = prices
        self._before = len(call.spent)
        self._reserved = 0
        self._settled = False

    def _cost(self) -> int:
        return sum(each.nanos for each in self._call.spent[self._before :])

    def lacks(self, worst: int) -> int:
        """What is not reserved yet of the most that it will have cost."""
        return max(0, self._cost() + worst - self._reserved) if worst else 0

    async def reserve(self, worsts: Mapping[_Bill, int]) -> None:
        """Have so much in hand for each beyond what it has spent, in every account that pays; or nothing."""
        lacking = {bill: bill.lacks(worst) for bill, worst in worsts.items()}
        need = sum(lacking.values())
        if not need:
            return
        done: list[str] = []
        try:
            for account in sorted(self._budgets):
                ceiling = self._budgets[account].halt_nanos
                await self._teller.reserve(account, ceiling, need, self._call.deadline)
                done.append(account)
        except BaseException:
            for account in done:
                self._teller.release(account, need)
            raise
        for bill, part in lacking.items():
            bill.has(part)

    def has(self, amount: int) -> None:
        """So much more is reserved for it."""
        if not self._settled:
            self._reserved += amount
            return
        # Its call was given up meanwhile.
        for account in self._budgets:
            self._teller.release(account, amount)

    async def settle(self) -> None:
        """Write what it has cost and let go of the rest; once."""
        if self._settled:
            return
        self._settled = True
        spent = self._call.spent[self._before :]
        reserved = dict.fromkeys(self._budgets, self._reserved) if self._reserved else {}
        if not spent and not reserved:
            return
        identity, cost = self._call.identity, self._cost()
        entries = [
            LedgerEntry(
                id=secrets.token_hex(16),
                at=time.time(),
                namespace=identity.namespace,
                workflow=identity.workflow,
                agent=identity.agent,
                run=identity.run,
                user=identity.user,
                model=each.model,
                prompt_tokens=each.prompt_tokens,
                completion_tokens=each.completion_tokens,
                nanos=each.nanos,
                estimated=each.estimated,
                prices=self._prices,
            )
            for each in spent
        ]
        costs = dict.fromkeys(accounts_of(identity), cost) if spent else {}
        done = self._teller.settle(entries, costs, reserved)
        if cost:
            await done
