"""The model service as a role: budgets from the store and the live settings, callers from Kubernetes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from seedbed.runtime.api.access import (
    Access,
    Action,
    Caller,
    ForbiddenError,
    UnauthenticatedError,
    kubernetes_access,
)
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.funded import funded
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import (
    Identify,
    NotAllowedError,
    NotKnownError,
    Reviewed,
    anybody,
    reviewed,
)
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.service import serving
from seedbed.runtime.store.ledger import SqlLedger
from seedbed.runtime.store.outcomes import SqlOutcomes
from seedbed.runtime.store.sql import SqlStore

AUDIENCE = "seedbed-gateway"
"""Tokens of workers are made for the model service alone; others are the API server's own."""


@dataclass(frozen=True, slots=True)
class KubernetesReview:
    """A `Review` by the API server. Who may create Workflows in a namespace may spend its money."""

    access: Access

    async def caller(self, token: str) -> Caller:
        """See `Review`."""
        try:
            return await self.access.caller(token)
        except UnauthenticatedError as error:
            raise NotKnownError(error.message) from error

    async def may_spend(self, caller: Reviewed, namespace: str) -> None:
        """See `Review`."""
        assert isinstance(caller, Caller)
        try:
            await self.access.require(caller, Action("create", "workflows", namespace))
        except ForbiddenError as error:
            raise NotAllowedError(error.message) from error


@asynccontextmanager
async def identities(kind: str) -> AsyncIterator[Identify]:
    """How callers are known: `kubernetes`, or `headers` where whoever can call owns everything."""
    if kind == "headers":
        yield anybody
        return
    async with kubernetes_access(audience=AUDIENCE) as access:
        yield reviewed(KubernetesReview(access))


@asynccontextmanager
async def serving_models(
    models: Models,
    host: str,
    port: int,
    *,
    holder: str,
    identify: Identify = anybody,
    store: SqlStore | None = None,
    coordinator: Coordinator | None = None,
) -> AsyncIterator[int]:
    """The model service while the context is open, with budgets where there is a store for them."""
    gateway = Gateway(models)
    async with AsyncExitStack() as stack:
        if store is not None and coordinator is not None:
            # A replica that starts anew is another holder: what the old one held ends by itself.
            name = f"{holder}-{secrets.token_hex(4)}"
            await stack.enter_async_context(funded(gateway, SqlLedger(store), coordinator, name))
            await stack.enter_async_context(gateway.learning.following(SqlOutcomes(store)))
        yield await stack.enter_async_context(
            serving(models, host, port, gateway=gateway, identify=identify)
        )
