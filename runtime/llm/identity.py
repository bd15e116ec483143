"""On whose behalf a request comes.

The namespace is the caller's own, as its bearer token tells; the other headers say for which Agent,
Workflow and run within it, so that the right budgets pay. In one process on one machine, where
whoever can call owns everything, the headers are believed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Protocol

from aiohttp import hdrs, web

from seedbed.crds.base import NAME_PATTERN
from seedbed.crds.errors import InvalidError, TerminalError
from seedbed.runtime.llm.call import Identity

NAMESPACE, AGENT, WORKFLOW, RUN = (
    f"X-Seedbed-{part}" for part in ("Namespace", "Agent", "Workflow", "Run")
)
_NAME = re.compile(NAME_PATTERN)
_LONGEST_RUN = 128

Identify = Callable[[web.Request], Awaitable[Identity]]


class NotKnownError(TerminalError):
    """Nobody knows who calls."""

    code = "invalid_api_key"


class NotAllowedError(TerminalError):
    """The caller may not act for this namespace."""

    code = "forbidden"


class Reviewed(Protocol):
    """Somebody the API server knows."""

    @property
    def name(self) -> str:
        """As RBAC knows them."""

    @property
    def namespace(self) -> str:
        """That of a service account, empty for people."""


class Review(Protocol):
    """Asks the API server. Errors: NotKnownError, NotAllowedError, UnavailableError."""

    async def caller(self, token: str) -> Reviewed:
        """Who the bearer token belongs to."""

    async def may_spend(self, caller: Reviewed, namespace: str) -> None:
        """Pass where the caller may have work done on behalf of the namespace."""


async def anybody(request: web.Request) -> Identity:
    """For one machine: what the headers say."""
    return _identity(request.headers, request.headers.get(NAMESPACE, "default"), "")


def reviewed(review: Review) -> Identify:
    """For a cluster: who the token says, in their own namespace or one they have the right to."""

    async def identify(request: web.Request) -> Identity:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotKnownError("a bearer token is needed")
        caller = await review.caller(token.strip())
        namespace = request.headers.get(NAMESPACE) or caller.namespace
        if not namespace:
            raise InvalidError(NAMESPACE, "is needed, because the caller has no namespace")
        found = _identity(request.headers, namespace, caller.name)
        if namespace != caller.namespace:
            await review.may_spend(caller, namespace)
        return found

    return identify


def _identity(headers: Mapping[str, str], namespace: str, user: str) -> Identity:
    agent, workflow = headers.get(AGENT, ""), headers.get(WORKFLOW, "")
    run = headers.get(RUN, "")[:_LONGEST_RUN]
    if not run.isprintable():
        # Bytes that are no UTF-8 among them: no ledger could keep it.
        raise InvalidError(RUN, "must be text")
    return _checked(namespace, agent, workflow, run, user)


@lru_cache(maxsize=4096)
def _checked(namespace: str, agent: str, workflow: str, run: str, user: str) -> Identity:
    for header, name in ((NAMESPACE, namespace), (AGENT, agent), (WORKFLOW, workflow)):
        if name and not _NAME.match(name):
            raise InvalidError(header, "must be the name of an object")
    return Identity(namespace, agent, workflow, run, user)
