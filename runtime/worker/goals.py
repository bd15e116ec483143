"""Goal steps: a goal taken apart by rules, by a model of the model service, or by both."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from pydantic import ValidationError

from seedbed.crds.errors import InvalidError
from seedbed.crds.goal import GoalCall, GoalTemplate
from seedbed.crds.messages import StepTask
from seedbed.runtime.llm.token import bearer
from seedbed.runtime.workflow.planning.goals.model import ModelPlanner
from seedbed.runtime.workflow.planning.goals.planner import Bounds, Planner, decompose
from seedbed.runtime.workflow.planning.goals.template import TemplatePlanner
from seedbed.runtime.workflow.planning.goals.tree import GoalTree, told

GOAL = "goal"
"""Key of a task's program that holds the goal step."""


async def take_apart(task: StepTask, gateway_url: str) -> dict[str, Any]:
    """Carry a goal step out.

    Raises:
        InvalidError: the goal, its rules or the worker's settings do not fit.
        SeedbedError: what a planner raises.
    """
    try:
        call = GoalCall.model_validate({**task.program[GOAL], **task.inputs})
    except ValidationError as error:
        raise InvalidError("goal", error.errors()[0]["msg"]) from error
    planners: list[Planner] = []
    if call.rules:
        planners.append(TemplatePlanner(GoalTemplate(rules=call.rules)))
    tree: GoalTree
    bounds = Bounds(call.max_tasks, call.max_depth, call.max_calls, call_seconds=task.timeout)
    in_sequence = call.order == "Sequence"
    if call.model is None:
        # Rules only compute: in a thread with a loop of its own no other step waits for them.
        work = decompose(call.text, planners, bounds)
        tree = await asyncio.to_thread(asyncio.run, work)
        return await asyncio.to_thread(told, tree, in_sequence=in_sequence)
    if not gateway_url:
        raise InvalidError("goal.model", "this worker knows no model service")
    headers = {
        "Authorization": bearer(),
        "X-Seedbed-Namespace": task.namespace,
        "X-Seedbed-Workflow": task.workflow,
        "X-Seedbed-Run": task.run,
        "traceparent": task.traceparent,
    }
    known = {name: value for name, value in headers.items() if value}
    async with aiohttp.ClientSession(gateway_url, headers=known) as session:
        planners.append(ModelPlanner(session, call.model))
        tree = await decompose(call.text, planners, bounds)
        return told(tree, in_sequence=in_sequence)
