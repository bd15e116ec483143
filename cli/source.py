"""Where the reading commands look: a cluster, or the state folder of an embedded run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from seedbed.controllers.plan import Raw
from seedbed.crds.errors import InvalidError
from seedbed.crds.kinds import KINDS, Kind


class Source(Protocol):
    """Reads objects and runs. Errors: NotFoundError, UnavailableError, TerminalError where refused."""

    @property
    def namespace(self) -> str:
        """The namespace where the user names none."""

    async def objects(self, kind: Kind, namespace: str | None) -> list[Raw]:
        """The objects of a kind in a namespace, or in all, by namespace and name."""

    async def object(self, kind: Kind, namespace: str, name: str) -> Raw:
        """One object."""

    async def events(self, obj: Raw) -> list[Mapping[str, Any]]:
        """The object's Events, oldest first: `type`, `reason`, `age`, `count`, `message`."""

    def watch(
        self, kind: Kind, namespace: str, name: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Raw]]:
        """One object as it is now, and again after each change, until it is deleted."""

    async def steps(self, namespace: str, workflow: str) -> Sequence[Mapping[str, Any]]:
        """The step log of the Workflow's newest run."""

    async def result(self, namespace: str, workflow: str) -> Any:
        """The result of the Workflow's newest run, of any size."""

    async def checkpoints(
        self, namespace: str, workflow: str, run: str | None
    ) -> Mapping[str, Any]:
        """A run's checkpoints, oldest first, under `checkpoints`; the run's id under `run`."""

    async def analysis(self, namespace: str, workflow: str, page: str) -> Mapping[str, Any]:
        """What a page of `seedbed.runtime.api.planning` tells of the Workflow's newest run.

        Or one of `seedbed.runtime.api.record_of_runs`, of all of them.
        """

    def items(self, namespace: str, workflow: str, step: str) -> AsyncIterator[Mapping[str, Any]]:
        """What a step of the newest run has yielded and yields; see `seedbed.runtime.workflow.step_items`."""

    def follow(self, namespace: str, workflow: str) -> AsyncIterator[Mapping[str, Any]]:
        """What has happened in the Workflow's newest run and what happens, to its end.

        Each has `id`, `kind` and `data`; see `seedbed.runtime.workflow.run_events`.
        """

    async def costs(self, by: str, **given: str) -> Mapping[str, Any]:
        """What model calls have cost; `given`: namespace, workflow, agent, since, empty for all."""

    async def routing_report(self, namespace: str) -> Mapping[str, Any]:
        """Cost and quality of models, by task; see `seedbed.runtime.llm.report`."""

    async def cache_stats(self, namespace: str, days: int) -> Mapping[str, Any]:
        """What the cache of answers has counted; see `seedbed.runtime.llm.cache.stats.summary`."""

    async def cache_invalidate(self, namespace: str, tag: str, model: str) -> int:
        """Forget cached answers of a namespace, of a tag or model where named; how many there were."""

    async def batches(self, namespace: str) -> Mapping[str, Any]:
        """The newest batches of offline work, of all namespaces where it is empty, under `data`.

        Each is as `seedbed.runtime.llm.batch.offline.form.batch_form` tells.
        """

    async def batch(self, name: str) -> Mapping[str, Any]:
        """One batch of offline work."""

    async def cancel_batch(self, name: str) -> Mapping[str, Any]:
        """Have a batch of offline work end early; gives it as it stands then."""

    async def picture(self, namespace: str, workflow: str, form: str) -> str:
        """A picture of the Workflow's newest run as SVG; forms as in `runtime.workflow.planning.picture`."""

    async def seed_decisions(
        self, namespace: str, layer: str, after: int, token: str
    ) -> Sequence[Mapping[str, Any]]:
        """What was decided about a SeedLayer's seeds, behind a number, oldest first."""


def kind_named(text: str) -> Kind:
    """The kind that a user means by its name, plural or short name, in any case.

    Raises:
        InvalidError: where there is none.
    """
    for kind in KINDS:
        if text.lower() in (kind.name.lower(), kind.plural, kind.short):
            return kind
    raise InvalidError("KIND", f"expected one of {', '.join(kind.plural for kind in KINDS)}")
