"""Which budgets pay for a call: those of its namespace, its Workflow and its Agent, as they are now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import orjson
from pydantic import ValidationError

from seedbed.crds.budget import Budget
from seedbed.crds.errors import RetryableError
from seedbed.crds.spending import (
    agent_account,
    namespace_account,
    workflow_account,
)
from seedbed.runtime.coordination.port import Change, Coordinator
from seedbed.runtime.llm.call import Identity

log = logging.getLogger(__name__)

_PREFIXES = ("agents/", "workflows/")
_AGAIN = 1.0


def accounts_of(identity: Identity) -> tuple[str, ...]:
    """Every account that a call is written to."""
    found = [namespace_account(identity.namespace)]
    if identity.workflow:
        found.append(workflow_account(identity.namespace, identity.workflow))
    if identity.agent:
        found.append(agent_account(identity.namespace, identity.agent))
    return tuple(found)


class Limits:
    """Budgets by account. Those of namespaces come from the models file, the others from live settings."""

    def __init__(self, namespaces: Mapping[str, Budget] | None = None) -> None:
        """`namespaces`: budgets by namespace; `*` is for those that are not named."""
        self._namespaces = namespaces or {}
        self._budgets: dict[str, Budget] = {}

    def of(self, identity: Identity) -> dict[str, Budget]:
        """The budgets that pay for a call, by account."""
        found = {}
        space = self._namespaces.get(identity.namespace) or self._namespaces.get("*")
        if space is not None:
            found[namespace_account(identity.namespace)] = space
        for account in accounts_of(identity)[1:]:
            if account in self._budgets:
                found[account] = self._budgets[account]
        return found

    def of_account(self, account: str) -> Budget | None:
        """The budget of one account."""
        kind, _, name = account.partition("/")
        if kind == "namespaces":
            return self._namespaces.get(name) or self._namespaces.get("*")
        return self._budgets.get(account)

    def change(self, change: Change) -> None:
        """A live setting has changed; the keys of Agents and Workflows name their accounts too."""
        if not change.key.startswith(_PREFIXES):
            return
        self._budgets.pop(change.key, None)
        if change.value is None:
            return
        try:
            told = orjson.loads(change.value).get("budget")
            if told:
                self._budgets[change.key] = Budget.model_validate(told)
        except (orjson.JSONDecodeError, AttributeError, ValidationError) as error:
            log.warning("the budget of %s cannot be read: %s", change.key, error)

    async def load(self, coordinator: Coordinator) -> None:
        """Learn all budgets there are, however long the coordinator takes to answer."""
        while True:
            try:
                for prefix in _PREFIXES:
                    for key, value in (await coordinator.settings(prefix)).items():
                        self.change(Change(key, value))
            except RetryableError as error:
                log.warning("budgets cannot be read: %s", error)
                await asyncio.sleep(_AGAIN)
            else:
                return

    async def follow(self, coordinator: Coordinator) -> None:
        """Keep up with the live settings until cancelled."""
        while True:
            try:
                async with coordinator.watch("") as changes:
                    async for change in changes:
                        self.change(change)
            except RetryableError as error:
                # Budgets stay as they were last known; calls go on.
                log.warning("budgets cannot be followed: %s", error)
            await asyncio.sleep(_AGAIN)
