"""Who calls, and what they may do: asked of Kubernetes, so that its RBAC is the one place for rights."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from seedbed.crds.base import GROUP
from seedbed.crds.errors import TerminalError, UnavailableError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REMEMBER_SECONDS = 10.0
"""How long an answer of the API server counts; a right that is taken away ends that much later."""

_REMEMBERED = 10_000
_WAIT = aiohttp.ClientTimeout(total=10.0)
_SERVICE_ACCOUNT = "system:serviceaccount:"
_CREATED = 201

_log = logging.getLogger(__name__)


class UnauthenticatedError(TerminalError):
    """Nobody knows who calls."""

    code = "unauthenticated"


class ForbiddenError(TerminalError):
    """The caller is known and has no right to this."""

    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody the API server knows."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def namespace(self) -> str:
        """The namespace of a service account; empty for people."""
        if not self.name.startswith(_SERVICE_ACCOUNT):
            return ""
        return self.name.removeprefix(_SERVICE_ACCOUNT).partition(":")[0]


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody wants to do with an object of Seedbed's group, in RBAC's words.

    `resource` may name a part of it, as `workflows/approvals` does.
    """

    verb: str
    resource: str
    namespace: str
    name: str = ""

    def __str__(self) -> str:
        named = f" {self.name!r}" if self.name else ""
        where = f"namespace {self.namespace!r}" if self.namespace else "all namespaces"
        resource, _, part = self.resource.partition("/")
        whole = f"{resource}.{GROUP}/{part}" if part else f"{resource}.{GROUP}"
        return f"{self.verb} {whole}{named} in {where}"


class Access(Protocol):
    """Both methods may raise UnavailableError where the API server does not answer."""

    async def caller(self, token: str) -> Caller:
        """Who the bearer token belongs to.

        Raises:
            UnauthenticatedError: where the token is not valid.
        """

    async def require(self, caller: Caller, action: Action) -> None:
        """Pass where the caller may do it.

        Raises:
            ForbiddenError: naming the action.
        """


class KubernetesAccess:
    """Access by TokenReview and SubjectAccessReview; make one with `kubernetes_access`."""

    def __init__(
        self, session: aiohttp.ClientSession, server: str, account: Path, audience: str = ""
    ) -> None:
        self._audience = audience
        self._session = session
        self._server = server
        self._account = account
        self._callers: dict[str, tuple[float, Caller]] = {}
        self._allowed: dict[tuple[Caller, Action], float] = {}

    async def caller(self, token: str) -> Caller:
        """See the port."""
        if not token:
            raise UnauthenticatedError("a bearer token is needed")
        digest = hashlib.sha256(token.encode()).hexdigest()
        now = time.monotonic()
        known = self._callers.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        status = await self._known(token)
        if not status.get("authenticated"):
            raise UnauthenticatedError("the bearer token is not valid")
        user = status["user"]
        caller = Caller(
            user["username"],
            user.get("uid", ""),
            tuple(user.get("groups") or ()),
            tuple((name, tuple(each)) for name, each in (user.get("extra") or {}).items()),
        )
        _bound(self._callers)
        self._callers[digest] = (now + REMEMBER_SECONDS, caller)
        return caller

    async def _known(self, token: str) -> dict[str, Any]:
        """What the API server says of a token: made for this service, or for the API server itself."""
        kind = ("authentication.k8s.io", "TokenReview", "tokenreviews")
        if self._audience:
            asked = {"token": token, "audiences": [self._audience]}
            status = await self._review(*kind, asked)
            if status.get("authenticated"):
                return status
        return await self._review(*kind, {"token": token})

    async def require(self, caller: Caller, action: Action) -> None:
        """See the port."""
        now = time.monotonic()
        if self._allowed.get((caller, action), 0.0) > now:
            return
        resource, _, part = action.resource.partition("/")
        attributes = {
            "group": GROUP,
            "verb": action.verb,
            "resource": resource,
            **({"subresource": part} if part else {}),
            "namespace": action.namespace,
            "name": action.name,
        }
        status = await self._review(
            "authorization.k8s.io",
            "SubjectAccessReview",
            "subjectaccessreviews",
            {
                "user": caller.name,
                "uid": caller.uid,
                "groups": list(caller.groups),
                "extra": {name: list(each) for name, each in caller.extra},
                "resourceAttributes": attributes,
            },
        )
        if not status.get("allowed"):
            raise ForbiddenError(f"{caller.name} may not {action}")
        _bound(self._allowed)
        self._allowed[caller, action] = now + REMEMBER_SECONDS

    async def _review(
        self, group: str, kind: str, plural: str, spec: dict[str, Any]
    ) -> dict[str, Any]:
        # Read each time: the kubelet replaces the token before it ends.
        own = (self._account / "token").read_text().strip()
        try:
            async with self._session.post(
                f"{self._server}/apis/{group}/v1/{plural}",
                json={"apiVersion": f"{group}/v1", "kind": kind, "spec": spec},
                headers={"Authorization": f"Bearer {own}"},
            ) as answer:
                if answer.status != _CREATED:
                    _log.error("the API server refused a %s: %d", kind, answer.status)
                    raise UnavailableError(f"the API server answered {answer.status} to a {kind}")
                status: dict[str, Any] = (await answer.json()).get("status") or {}
                return status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(f"the API server does not answer: {error}") from error


@asynccontextmanager
async def kubernetes_access(
    server: str = "", account: Path = ACCOUNT, audience: str = ""
) -> AsyncIterator[KubernetesAccess]:
    """Access through the API server of the cluster that this pod runs in.

    Args:
        server: its URL; the one that the pod's environment tells where none is given.
        account: folder with the service account's `token` and `ca.crt`.
        audience: name under which tokens are made for this service; those of the API server count too.
    """
    async with api_server(server, account) as (session, found):
        yield KubernetesAccess(session, found, account, audience)


@asynccontextmanager
async def api_server(
    server: str = "", account: Path = ACCOUNT
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session that trusts the API server, and its URL; arguments as in `kubernetes_access`."""
    if not server:
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(connector=connector, timeout=_WAIT) as session:
        yield session, server


def _bound(answers: dict[Any, Any]) -> None:
    # The oldest stand first; one that is still valid is only asked for again.
    while len(answers) >= _REMEMBERED:
        del answers[next(iter(answers))]
