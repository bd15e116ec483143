"""The HTTP API as one application.

    /ofrep/v1/...                  FeatureFlags (ofrep.py)
    /api/v3/workflows/...          runs (runs.py), live (streams.py), and their analysis (planning.py)
                                   and checkpoints (checkpoints.py), approvals and events (inbox.py)
    /api/v3/plans/...              plans too large for an object (plans.py)
    /api/v3/costs, routing, outcomes    money and quality of models (costs.py)
    /api/v3/cache/...              answers that are kept, and what they saved (cache.py)
    /api/v3/batches/...            offline work in batches (batches.py)
    /api/v3/tasks/...              goals and their trees of tasks (goals.py)
    GET /api/v3/services           the live services, of `?namespace=` or of all
    /api/v3/dead-letters           events that could not be handled (dead_letters.py)
    GET /healthz                   for anybody

Errors are `{"error": {"code", "message"}}`; those of a flag's evaluation have OFREP's form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web

from seedbed.crds.errors import RetryableError
from seedbed.runtime.api.access import Access, Action
from seedbed.runtime.api.answers import ACCESS, answer, errors_as_answers, require, with_caller
from seedbed.runtime.api.batches import BatchPages
from seedbed.runtime.api.cache import CachePages
from seedbed.runtime.api.checkpoints import CheckpointPages
from seedbed.runtime.api.costs import CostPages
from seedbed.runtime.api.dead_letters import DeadLetterPages
from seedbed.runtime.api.flags import LiveFlags
from seedbed.runtime.api.goals import GoalPages
from seedbed.runtime.api.inbox import InboxPages
from seedbed.runtime.api.ofrep import FlagPages
from seedbed.runtime.api.planning import PlanningPages
from seedbed.runtime.api.plans import PlanPages
from seedbed.runtime.api.record_of_runs import RecordPages
from seedbed.runtime.api.runs import History, RunPages
from seedbed.runtime.api.streams import StreamPages
from seedbed.runtime.bus.events import EventLog
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.coordination.registry import discover
from seedbed.runtime.store.plans import Plans
from seedbed.runtime.store.port import Store
from seedbed.runtime.telemetry.health import serving_app
from seedbed.runtime.workflow.live import LiveRuns, live_runs
from seedbed.runtime.workflow.step_items import StepItems

_LARGEST_BODY = 256 * 1024
_RETRY_SECONDS = 1.0


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
    plans: Plans | None = None,
    checkpoints: CheckpointPages | None = None,
    inbox: InboxPages | None = None,
    goals: GoalPages | None = None,
    costs: CostPages | None = None,
    cache: CachePages | None = None,
    batches: BatchPages | None = None,
) -> web.Application:
    """The application; `flags` is kept up to date by whoever calls."""

    async def services(request: web.Request) -> web.Response:
        # A service belongs to the Pool it works for.
        namespace = request.query.get("namespace", "")
        await require(request, Action("list", "pools", namespace))
        wanted = {"namespace": namespace} if namespace else None
        found = await discover(coordinator, metadata=wanted)
        return answer(
            {
                "services": [
                    {
                        "name": each.name,
                        "instance": each.instance,
                        "capabilities": sorted(each.capabilities),
                        "metadata": dict(each.metadata),
                    }
                    for each in found
                ]
            }
        )

    async def alive(_: web.Request) -> web.Response:
        return answer({"status": "ok"})

    app = web.Application(
        client_max_size=_LARGEST_BODY, middlewares=[errors_as_answers, with_caller]
    )
    app[ACCESS] = access
    app.add_routes(
        [
            web.get("/healthz", alive),
            web.get("/api/v3/services", services),
            *FlagPages(flags).routes(),
            *RunPages(store, history).routes(),
            *PlanningPages(store).routes(),
            *StreamPages(store, live, items or StepItems(store, None)).routes(),
            *RecordPages(store).routes(),
            *(DeadLetterPages(events).routes() if events else ()),
            *(PlanPages(plans).routes() if plans else ()),
            *(checkpoints.routes() if checkpoints else ()),
            *(inbox.routes() if inbox else ()),
            *(goals.routes() if goals else ()),
            *(costs.routes() if costs else ()),
            *(cache.routes() if cache else ()),
            *(batches.routes() if batches else ()),
        ]
    )
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
    plans: Plans | None = None,
    checkpoints: CheckpointPages | None = None,
    inbox: InboxPages | None = None,
    goals: GoalPages | None = None,
    costs: CostPages | None = None,
    cache: CachePages | None = None,
    batches: BatchPages | None = None,
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
        plans: where large plans are kept.
        checkpoints: the pages about checkpoints.
        inbox: the pages by which people and other systems tell runs something.
        goals: the pages about goals and their trees.
        costs: the pages about money.
        cache: the pages about cached answers.
        batches: the pages about offline work.
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
            plans=plans,
            checkpoints=checkpoints,
            inbox=inbox,
            goals=goals,
            costs=costs,
            cache=cache,
            batches=batches,
        )
        started(await stack.enter_async_context(serving_app(app, host, port)))
        while True:
            try:
                await known.follow(coordinator)
            except RetryableError as error:
                # Flags stay as they were last known; decisions go on.
                await asyncio.sleep(error.retry_after or _RETRY_SECONDS)
