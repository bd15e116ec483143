"""Where a run begins that `spec.forkFrom` names an earlier one for.

A run that cannot begin so does not begin at all: it ends at once as Failed and says why.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from msgspec import structs

from seedbed.crds.checkpoint import ForkFrom
from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import InvalidError, NotFoundError, TerminalError
from seedbed.crds.messages import RunRequest
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.checkpoint.fork import inherited
from seedbed.runtime.workflow.checkpoint.keys import DamagedError, KeyLostError
from seedbed.runtime.workflow.checkpoint.vault import Vault
from seedbed.runtime.workflow.plan import RunPlan, Start, reopened, started
from seedbed.runtime.workflow.records import Record, RunFinished, RunForked, RunStarted
from seedbed.runtime.workflow.replay import decoded, resume
from seedbed.runtime.workflow.snapshot import shortest

_REASONS: tuple[tuple[type[TerminalError], str], ...] = (
    (NotFoundError, "ForkOriginNotFound"),
    (DamagedError, "CheckpointDamaged"),
    (KeyLostError, "CheckpointKeyLost"),
    (TerminalError, "ForkImpossible"),
)


@dataclass(frozen=True, slots=True)
class _State:
    """A run as it was: its plan and the shortest records; `number` 0 for as it is now."""

    run: str
    number: int
    plan: RunPlan
    records: list[Record]


class Origins:
    """Reads what runs fork from.

    Args:
        vault: the checkpoints; None where there are none.
    """

    def __init__(self, store: Store, vault: Vault | None) -> None:
        self._store = store
        self._vault = vault

    async def begin(self, asked: Start | Submit, now: float) -> Start | Submit:
        """The start with the records that it takes over, where its plan names an origin.

        Raises:
            UnavailableError: store or archive do not answer.
        """
        request = asked.request
        if request.spec.get("forkFrom") is None or await self._store.run(request.run) is not None:
            return asked
        start = asked if isinstance(asked, Start) else started(request)
        fork = start.plan.spec.fork_from
        assert fork is not None
        try:
            state = await self._state(fork, start.request)
            found = inherited(state.records, state.plan, start.plan, fork.again)
        except TerminalError as error:
            reason = next(word for form, word in _REASONS if isinstance(error, form))
            end = RunFinished(now, "Failed", reason, error.message, None)
            return replace(start, first=(RunStarted(now), end))
        told = RunForked(now, state.run, state.number, found.taken, len(found.again))
        # With the time at which this run took them over.
        taken = (structs.replace(record, at=now) for record in found.records)
        return replace(start, first=(RunStarted(now), told, *taken))

    async def _state(self, fork: ForkFrom, request: RunRequest) -> _State:
        row = await self._row(fork, request)
        if fork.checkpoint is None:
            state, _ = await resume(self._store, row, Counter())
            try:
                return _State(row.run, 0, RunPlan(state.spec, state.graph), shortest(state))
            finally:
                state.release()
        if self._vault is None:
            raise InvalidError("spec.forkFrom.checkpoint", "this engine keeps no checkpoints")
        content = await self._vault.load(row.run, fork.checkpoint)
        steps = content.request.steps
        plan = await reopened(content.request, await self._store.value(steps) if steps else None)
        records = await decoded(self._store, content.records)
        return _State(row.run, fork.checkpoint, plan, records)

    async def _row(self, fork: ForkFrom, request: RunRequest) -> RunRow:
        if fork.run is not None:
            row = await self._store.run(fork.run)
            # A namespace is a tenant: what another one has does not exist here.
            if row is None or row.namespace != request.namespace:
                raise NotFoundError("run", fork.run)
            return row
        workflow = fork.workflow or request.workflow
        for row in await self._store.runs(request.namespace, workflow):
            if row.run != request.run:
                return row
        raise NotFoundError("run", f"of Workflow {workflow}")
