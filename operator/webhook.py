"""The admission webhook: refuses what the schema cannot see is wrong, with a sentence naming the field.

Every replica serves it, leading or not. What is wrong is decided by `crds.admission`; this only speaks
the protocol.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from seedbed.crds.admission import validate
from seedbed.operator.metrics import Metrics

log = logging.getLogger(__name__)

TOLD = 5
"""So many mistakes of one object are told at once."""


def review(request: dict[str, Any]) -> dict[str, Any]:
    """The response to an AdmissionReview's request."""
    problems = validate(request["object"], request.get("oldObject"))
    if not problems:
        return {"uid": request["uid"], "allowed": True}
    told = "; ".join(str(problem) for problem in problems[:TOLD])
    if len(problems) > TOLD:
        told = f"{told}; and {len(problems) - TOLD} more"
    status = {"code": 422, "reason": "Invalid", "message": told}
    return {"uid": request["uid"], "allowed": False, "status": status}


def webhook_app(metrics: Metrics) -> web.Application:
    """The webhook as an application: POST /validate."""

    async def answer(request: web.Request) -> web.Response:
        try:
            body = orjson.loads(await request.read())
            asked = body["request"]
            response = review(asked)
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("an admission review that cannot be read: %r", error)
            return web.Response(status=400, text="expected an AdmissionReview\n")
        kind = str(asked["object"].get("kind"))
        metrics.admissions.labels(kind, str(response["allowed"]).lower()).inc()
        full = {"apiVersion": body["apiVersion"], "kind": "AdmissionReview", "response": response}
        return web.Response(body=orjson.dumps(full), content_type="application/json")

    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_post("/validate", answer)
    return app


@asynccontextmanager
async def serving_webhook(
    metrics: Metrics,
    context: ssl.SSLContext,
    port: int,
    host: str = "0.0.0.0",  # noqa: S104 -- the API server asks from outside the pod
) -> AsyncIterator[int]:
    """Serve the webhook over TLS while the context is open; gives the port.

    A certificate loaded into `context` later is used for every connection from then on.
    """
    runner = web.AppRunner(webhook_app(metrics), access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
