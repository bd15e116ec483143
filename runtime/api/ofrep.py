"""FeatureFlags over OFREP, the protocol that OpenFeature's own clients speak.

    POST /ofrep/v1/evaluate/flags/{key}   one flag
    POST /ofrep/v1/evaluate/flags         all flags of the namespace, with an ETag

A flag's key is its name. The namespace is that of the header `X-Seedbed-Namespace`, else the one of
the caller's service account.
"""

from __future__ import annotations

import hashlib
from typing import Any, NotRequired, TypedDict

import orjson
from aiohttp import hdrs, web

from seedbed.crds.errors import InvalidError
from seedbed.runtime.api.access import Action, Caller
from seedbed.runtime.api.answers import CALLER, answer, require
from seedbed.runtime.api.flags import LiveFlags
from seedbed.runtime.flags.evaluate import Decision
from seedbed.runtime.openapi import JSON, says

NAMESPACE_HEADER = "X-Seedbed-Namespace"


class Evaluation(TypedDict):
    """A flag for one subject, in OFREP's form."""

    key: str
    reason: str
    variant: str
    value: bool
    metadata: dict[str, Any]


class Evaluations(TypedDict):
    """All flags of a namespace."""

    flags: list[Evaluation]


class FlagError(TypedDict):
    """Why there is no evaluation, in OFREP's form."""

    key: NotRequired[str]
    errorCode: str
    errorDetails: str


class FlagPages:
    """The two pages."""

    def __init__(self, flags: LiveFlags) -> None:
        self._flags = flags

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        return [
            web.post("/ofrep/v1/evaluate/flags/{key}", self.one),
            web.post("/ofrep/v1/evaluate/flags", self.all),
        ]

    @says(takes=JSON, answers=Evaluation, errors=FlagError)
    async def one(self, request: web.Request) -> web.Response:
        """Evaluate one flag."""
        key = request.match_info["key"]
        namespace = _namespace(request)
        await require(request, Action("get", "featureflags", namespace, key))
        try:
            subject = await _subject(request)
        except InvalidError as error:
            return _refused(key, 400, error)
        decision = self._flags.decide(namespace, key, subject)
        if decision is None:
            details = f"there is no FeatureFlag {key!r} in namespace {namespace!r}"
            missing: FlagError = {
                "key": key,
                "errorCode": "FLAG_NOT_FOUND",
                "errorDetails": details,
            }
            return answer(missing, status=404)
        return answer(_evaluation(key, decision))

    @says(takes=JSON, answers=Evaluations, errors=FlagError)
    async def all(self, request: web.Request) -> web.Response:
        """Evaluate every flag of the namespace."""
        namespace = _namespace(request)
        await require(request, Action("list", "featureflags", namespace))
        try:
            subject = await _subject(request)
        except InvalidError as error:
            return _refused(None, 400, error)
        decisions = self._flags.decide_all(namespace, subject)
        body: Evaluations = {"flags": [_evaluation(key, each) for key, each in decisions.items()]}
        tag = f'"{hashlib.sha256(orjson.dumps(body)).hexdigest()[:32]}"'
        if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
            return web.Response(status=304, headers={hdrs.ETAG: tag})
        return answer(body, headers={hdrs.ETAG: tag})


def _namespace(request: web.Request) -> str:
    caller: Caller = request[CALLER]
    namespace = request.headers.get(NAMESPACE_HEADER, "") or caller.namespace
    if not namespace:
        raise InvalidError(NAMESPACE_HEADER, "is needed: the caller is in no namespace")
    return namespace


async def _subject(request: web.Request) -> str | None:
    """The targeting key of the evaluation context; None where it names nobody."""
    try:
        body: Any = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidError("body", "expected JSON") from error
    context = body.get("context", {}) if isinstance(body, dict) else None
    if not isinstance(context, dict):
        raise InvalidError("context", "expected an object")
    subject = context.get("targetingKey")
    if subject is not None and not isinstance(subject, str):
        raise InvalidError("context.targetingKey", "expected a string")
    return subject


def _evaluation(key: str, decision: Decision) -> Evaluation:
    return {
        "key": key,
        "reason": decision.reason,
        "variant": decision.variant,
        "value": decision.value,
        "metadata": {},
    }


def _refused(key: str | None, status: int, error: InvalidError) -> web.Response:
    code = "PARSE_ERROR" if error.field == "body" else "INVALID_CONTEXT"
    body: FlagError = {"errorCode": code, "errorDetails": error.message}
    return answer(body if key is None else {"key": key, **body}, status=status)
