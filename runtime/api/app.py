"""The HTTP API as one application.

    /ofrep/v1/...                  FeatureFlags (ofrep.py)
    /api/v3/workflows/...          runs (runs.py), live (streams.py), and their analysis (planning.py)
                                   and checkpoints (checkpoints.py), approvals and events (inbox.py)
    /api/v3/plans/...              plans too large for an object (plans.py)
    /api/v3/costs, routing, outcomes    money and quality of models (costs.py)
    /api/v3/cache/...              answers that are kept, and what they saved (cache.py)
    /api/v3/batches/...            offline work in batches (batches.py)
    /api/v3/tasks/...              goals and their trees of tasks (goals.py)
    /api/v3/services               the live services (services.py)
    /api/v3/dead-letters           events that could not be handled (dead_letters.py)
    GET /openapi.json              all of this, for programs (openapi.py)
    GET /healthz                   for anybody

Errors are `{"error": {"code", "message"}}`; those of a flag's evaluation have OFREP's form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Protocol, TypedDict

from aiohttp import web

from seedbed.crds.errors import RetryableError
from seedbed.runtime.api.access import Access
from seedbed.runtime.api.answers import (
    ACCESS,
    PUBLIC,
    Failure,
    answer,
    errors_as_answers,
    with_caller,
)
from seedbed.runtime.api.dead_letters import DeadLetterPages
from seedbed.runtime.api.flags import LiveFlags
from seedbed.runtime.api.ofrep import FlagPages
from seedbed.runtime.api.planning import PlanningPages
from seedbed.runtime.api.record_of_runs import RecordPages
from seedbed.runtime.api.runs import History, RunPages
from seedbed.runtime.api.services import ServicePages
from seedbed.runtime.api.streams import StreamPages
from seedbed.runtime.bus.events import EventLog
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.openapi import add_described, says
from seedbed.runtime.store.port import Store
from seedbed.runtime.telemetry.health import serving_app
from seedbed.runtime.workflow.live import LiveRuns, live_runs
from seedbed.runtime.workflow.step_items import StepItems

_LARGEST_BODY = 256 * 1024
_RETRY_SECONDS = 1.0


class Pages(Protocol):
    """The pages of one subject."""

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""


class Health(TypedDict):
    """Whether it is well."""

    status: str


@says(answers=Health)
async def alive(_: web.Request) -> web.Response:
    """Whether it answers."""
    return answer({"status": "ok"})


def create_app(
    *,
    store: Store,
    history: History,
    coordinator: Coordinator,
    access: Access,
    flags: LiveFlags,
    live: LiveRuns,
    items: StepItems | None = None,
    events: EventLog | None = None,
    more: Iterable[Pages] = (),
) -> web.Application:
    """The application; `flags` is kept up to date by whoever calls, `more` are pages of other subjects."""
    app = web.Application(
        client_max_size=_LARGEST_BODY, middlewares=[errors_as_answers, with_caller]
    )
    app[ACCESS] = access
    shown = [
        web.get("/healthz", alive),
        *ServicePages(coordinator).routes(),
        *FlagPages(flags).routes(),
        *RunPages(store, history).routes(),
        *PlanningPages(store).routes(),
        *StreamPages(store, live, items or StepItems(store, None)).routes(),
        *RecordPages(store).routes(),
        *(DeadLetterPages(events).routes() if events else ()),
        *(route for pages in more for route in pages.routes()),
    ]
    add_described(app, "Seedbed's API", shown, error=Failure, public=PUBLIC)
    return app


async def serve(
    *,
    store: Store,
    history: History,
    coordinator: Coordinator,
    access: Access,
    host: str,
    port: int,
    flags: LiveFlags | None = None,
    events: EventLog | None = None,
    items: StepItems | None = None,
    more: Iterable[Pages] = (),
    started: Callable[[int], None] = lambda _: None,
) -> None:
    """Serve until cancelled.

    Args:
        store: where the runs are.
        history: reads step logs and results.
        coordinator: where live settings and services are.
        access: says who may do what.
        host: address to listen on.
        port: port to listen on; 0 for any.
        flags: where the flags are kept; for readiness.
        events: tells what happens in runs; without it they are looked at every few seconds.
        items: reads what steps yield; without it, only what ended steps have yielded.
        more: the pages of other subjects, such as checkpoints or money.
        started: told the port once it serves.
    """
    known = flags or LiveFlags()
    async with AsyncExitStack() as stack:
        live = await stack.enter_async_context(live_runs(store, events))
        app = create_app(
            store=store,
            history=history,
            coordinator=coordinator,
            access=access,
            flags=known,
            live=live,
            items=items,
            events=events,
            more=more,
        )
        started(await stack.enter_async_context(serving_app(app, host, port)))
        while True:
            try:
                await known.follow(coordinator)
            except RetryableError as error:
                # Flags stay as they were last known; decisions go on.
                await asyncio.sleep(error.retry_after or _RETRY_SECONDS)
