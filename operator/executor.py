"""Executes a Plan: all I/O of the operator, and no decision but whether a write is needed.

Order: live settings, the end of earlier runs, children, a new run, status, other requests to the engine,
events. Where children were written, the decision is asked for anew before what follows: what the status
says of them has to be of what the server made of them. Earlier runs end first: once the new one is known,
nothing tells any more that they should. A run is given to the engine before the status names it: its id
follows from the object, so whoever comes after a crash gives it again. Where the engine tells at once how
the run stands, the next pass writes that, and a run that is over by then costs one write. Right before each
write the leadership is checked by the clock; the status carries the fencing token, so the API server refuses
what slips through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import orjson

from seedbed.controllers.plan import (
    AdjustRun,
    CancelRun,
    Effect,
    Key,
    Observed,
    Plan,
    Publish,
    Raw,
    ReportStep,
    SubmitRun,
    Withdraw,
)
from seedbed.controllers.pods import key_of
from seedbed.controllers.reading import awaiting, declined, refused
from seedbed.crds.addresses import engine_address, partition_of
from seedbed.crds.base import API_VERSION, GROUP
from seedbed.crds.engine_requests import Adjust, Cancel, Report, Submit
from seedbed.crds.errors import (
    FencedError,
    InvalidError,
    PlanUnavailableError,
    UnavailableError,
)
from seedbed.crds.messages import RunSummary
from seedbed.crds.wire import decode, encode
from seedbed.operator.cluster import Cluster
from seedbed.operator.difference import TOKEN, covers, same_status
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Coordinator, Ownership

ENGINE_WAIT = 5.0
STAMP = f"{GROUP}/made-from"
"""Annotation of a child: a digest of what the operator last asked of it."""
_FIRST = (Publish, Withdraw, CancelRun)


class Executor:
    """Writes what differs, while this process leads.

    Attributes:
        token: the fencing token that statuses carry; see `fencing`.

    Args:
        writing: what each write of an object is done in; see `Echoes`.
        setting: what each write of a live setting is done in; see `LiveSettings`.
        changed: told each object as the server stored it.
        summarised: told each RunSummary that the engine answers.
    """

    def __init__(
        self,
        cluster: Cluster,
        bus: Bus,
        coordinator: Coordinator,
        ownership: Ownership,
        *,
        writing: Callable[[Key], AbstractContextManager[None]],
        setting: Callable[[str, bytes | None], AbstractContextManager[None]],
        changed: Callable[[Raw], None],
        summarised: Callable[[RunSummary], None],
    ) -> None:
        self._cluster = cluster
        self._bus = bus
        self._coordinator = coordinator
        self._ownership = ownership
        self.token = ownership.token
        self._writing = writing
        self._setting = setting
        self._changed = changed
        self._summarised = summarised
        self._applied: dict[Key, tuple[str, int]] = {}

    async def execute(self, observed: Observed, plan: Plan) -> bool:
        """Bring the world to the plan; returns whether to decide anew and go on from here.

        Raises:
            FencedError: this process leads no more and must stop.
            RetryableError, ConflictError: try the whole key again.
            InvalidError: a child was refused, which the status says; all else is done.
        """
        for effect in plan.effects:
            if isinstance(effect, _FIRST):
                await self.effect(effect)
        status = plan.status
        written, refusal = await self._children(observed, plan)
        if refusal is not None:
            status = self._refused(observed, plan, refusal)
        elif written:
            return True
        submitted = [effect for effect in plan.effects if isinstance(effect, SubmitRun)]
        told = [await self._submit(observed, plan, effect) for effect in submitted]
        if observed.object is not None and status is not None and not any(told):
            await self._status(observed.object, status)
        for effect in plan.effects:
            if not isinstance(effect, (*_FIRST, SubmitRun)):
                await self.effect(effect)
        if observed.object is not None:
            for event in plan.events:
                self._check()
                await self._cluster.record(observed.object, event)
        if refusal is not None:
            raise refusal  # a quota or a policy may change, and no watch tells
        return False

    def forget(self, child: Key) -> None:
        """A child is gone."""
        self._applied.pop(child, None)

    def _check(self) -> None:
        if not self._ownership.held:
            raise FencedError(self._ownership.name, self._ownership.token)

    async def _children(self, observed: Observed, plan: Plan) -> tuple[bool, InvalidError | None]:
        """Make and delete children.

        Returns:
            Whether any was made or changed, and the first refusal, which holds up no other child.
        """
        there = {key_of(child): child for child in observed.children}
        written, refusal = False, None
        for wanted in plan.apply:
            desired = _stamped(_without_empty(wanted))
            key = key_of(desired)
            if self._is_there(key, desired, there.get(key)):
                continue
            self._check()
            try:
                with self._writing(key):
                    stored = await self._cluster.apply(desired)
                    generation = int(stored["metadata"].get("generation", 0))
                    self._applied[key] = (_stamp(desired), generation)
                    self._changed(stored)
                written = True
            except InvalidError as error:
                refusal = refusal or error
        for key in plan.delete:
            child = there.get(key)
            if child is not None and not child["metadata"].get("deletionTimestamp"):
                self._check()
                await self._cluster.delete(key, child["metadata"]["uid"])
        return written, refusal

    def _is_there(self, key: Key, desired: Raw, child: Raw | None) -> bool:
        """Whether a child is as desired, or is what the server made of just this desire.

        The stamp tells also what is desired no more, which a comparison cannot tell from what the server
        or others have added.
        """
        if child is None:
            return False
        asked = _stamp(desired)
        if self._applied.get(key) == (asked, int(child["metadata"].get("generation", 0))):
            return True
        return _stamp(child) == asked and covers(desired, child)

    def _refused(self, observed: Observed, plan: Plan, error: InvalidError) -> Raw | None:
        """The status of an object whose child the API server refuses."""
        if observed.object is None or plan.status is None:
            raise error
        said = _said(observed.object, plan)
        return refused(said, error, datetime.now(UTC), reason="ChildRefused").status

    async def _submit(self, observed: Observed, plan: Plan, effect: SubmitRun) -> bool:
        """Submit a run; what the engine says of a plan that cannot begin goes into the status.

        Returns:
            Whether what is to be shown is known, so that the plan's own status need not be written.
        """
        obj, request = observed.object, effect.request
        submit = Submit(request, effect.document, effect.packed)
        try:
            self._check()
            return await self._ask(request.run, submit)
        except (InvalidError, UnavailableError) as error:
            if obj is None:
                raise
            await self._show(obj, _not_begun(obj, plan, error))
            if isinstance(error, UnavailableError):
                raise
            return True

    async def _show(self, obj: Raw, plan: Plan) -> None:
        """Write the status and the events of a plan."""
        if plan.status is not None:
            await self._status(obj, plan.status)
        for event in plan.events:
            self._check()
            await self._cluster.record(obj, event)

    async def _status(self, obj: Raw, status: Raw) -> None:
        if same_status(status, obj.get("status")):
            return
        metadata = obj["metadata"]
        self._check()
        said = {
            "apiVersion": API_VERSION,
            "kind": obj["kind"],
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "status": {**status, TOKEN: self.token},
        }
        with self._writing(key_of(obj)):
            self._changed(await self._cluster.apply_status(said))

    async def effect(self, effect: Effect) -> None:
        """Carry out one effect on the live settings or on a run that the engine has."""
        self._check()
        match effect:
            case Publish(key, value):
                with self._setting(key, value):
                    await self._coordinator.put(key, value, under=self._ownership)
            case Withdraw(key):
                with self._setting(key, None):
                    await self._coordinator.delete(key, under=self._ownership)
            case AdjustRun(run, suspend, parallelism, approvals, priority):
                change = Adjust(run, suspend, parallelism, dict(approvals), priority)
                await self._ask(run, change)
            case CancelRun(run, reason):
                await self._ask(run, Cancel(run, reason))
            case ReportStep(result):
                await self._request(result.run, Report(result))

    async def _ask(self, run: str, message: Submit | Adjust | Cancel) -> bool:
        """Ask the engine; returns whether it told how the run stands."""
        answer = await self._request(run, message)
        told = bool(orjson.loads(answer))
        if told:
            self._summarised(decode(RunSummary, answer))
        return told

    async def _request(self, run: str, message: Any) -> bytes:
        address = engine_address(partition_of(run))
        return await self._bus.request(address, encode(message), wait=ENGINE_WAIT)


def _said(obj: Raw, plan: Plan) -> dict[str, Any]:
    """The object as the plan's status makes it."""
    return {**obj, "status": {**(obj.get("status") or {}), **(plan.status or {})}}


def _not_begun(obj: Raw, plan: Plan, error: InvalidError | UnavailableError) -> Plan:
    """What to show of a plan that the engine refuses, or cannot take now."""
    said, now = _said(obj, plan), datetime.now(UTC)
    if isinstance(error, InvalidError):
        return declined(said, "PlanRefused", error.message, now)
    if error.code == PlanUnavailableError.code:
        return awaiting(said, "PlanUnavailable", error.message, now)
    return plan


def _without_empty(desired: Any) -> Any:
    """The desire without empty fields: the server drops them, and they would differ for ever."""
    if isinstance(desired, dict):
        kept = {}
        for name, value in desired.items():
            slim = _without_empty(value) if isinstance(value, dict | list | tuple) else value
            if slim is not None and slim != []:
                kept[name] = slim
        return kept
    if isinstance(desired, list | tuple):
        return [_without_empty(value) for value in desired]
    return desired


def _stamped(desired: dict[str, Any]) -> dict[str, Any]:
    """The desire with an annotation that tells it from any other."""
    digest = hashlib.sha256(orjson.dumps(desired, option=orjson.OPT_SORT_KEYS)).hexdigest()
    metadata = desired["metadata"]
    annotations = {**(metadata.get("annotations") or {}), STAMP: digest[:16]}
    return {**desired, "metadata": {**metadata, "annotations": annotations}}


def _stamp(obj: Raw) -> str:
    """The stamp of what an object was made from; empty where it has none."""
    return str((obj["metadata"].get("annotations") or {}).get(STAMP, ""))
