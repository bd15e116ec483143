"""The state folder of an embedded run: its objects, its Events and the journal of its runs.

objects.json    objects with status, Events, and how often the folder was opened
runs.db         the Store on SQLite
checkpoint.keys the key ring that checkpoints are encrypted under
lock            held by the process that runs on the folder

What reads a part of it is imported when that part is asked for.
"""
# ruff: noqa: PLC0415 -- see above

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from seedbed.cli.embedded.cluster import MemoryCluster
from seedbed.cli.output import age
from seedbed.controllers.plan import Raw
from seedbed.crds.errors import InvalidError, NotFoundError, UnavailableError
from seedbed.crds.kinds import SEED_LAYER, Kind

if TYPE_CHECKING:
    from seedbed.runtime.store.port import RunRow, Store
    from seedbed.runtime.store.sql import SqlStore
    from seedbed.runtime.workflow.history import StoredHistory

_KEPT = 10
_SAVE_EVERY = 0.25


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A state folder.

    Attributes:
        path: where it is.
        kept: whether the user named it, so that it is never removed.
    """

    path: Path
    kept: bool

    @property
    def database(self) -> str:
        """URL of the Store."""
        return f"sqlite:///{(self.path / 'runs.db').absolute()}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder.

        Raises:
            UnavailableError: where another process does.
        """
        with (self.path / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UnavailableError(f"{self.path}: another `seedbed run` uses it") from error
            yield

    def load(self) -> Mapping[str, Any]:
        """`objects`, `events` and `opened`; empty where nothing was saved.

        Raises:
            InvalidError: where the file is not as written by `save`.
        """
        try:
            content = orjson.loads((self.path / "objects.json").read_bytes())
        except FileNotFoundError:
            return {"objects": [], "events": [], "opened": 0}
        except (OSError, orjson.JSONDecodeError) as error:
            raise InvalidError(str(self.path / "objects.json"), str(error)) from error
        loaded: Mapping[str, Any] = content
        return loaded

    def save(self, cluster: MemoryCluster, opened: int) -> None:
        """Write everything; a reader sees the old or the new, never half."""
        content = {
            "objects": cluster.listed(),
            "events": [_event(one) for one in cluster.events()],
            "opened": opened,
        }
        fresh = self.path / "objects.json.new"
        fresh.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        fresh.replace(self.path / "objects.json")

    async def saving(self, cluster: MemoryCluster, opened: int) -> None:
        """Save after changes until cancelled, and a last time then."""
        changed = asyncio.Event()
        cluster.listen(lambda *_: changed.set())
        try:
            while True:
                await changed.wait()
                changed.clear()
                self.save(cluster, opened)
                await asyncio.sleep(_SAVE_EVERY)  # many changes come together
        finally:
            self.save(cluster, opened)


def folder(keep: Path | None) -> StateFolder:
    """The folder the user names, or a new one; of those not named the last few are kept."""
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidError("--keep", f"cannot be used as a folder: {error}") from error
        return StateFolder(keep, kept=True)
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "seedbed"
    path = base / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    path.mkdir(parents=True)
    for old in sorted(one for one in base.iterdir() if one.is_dir())[:-_KEPT]:
        _remove_unused(old)
    return StateFolder(path, kept=False)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[FolderSource]:
    """Read a state folder, also while a run uses it.

    Raises:
        InvalidError: where it is none.
    """
    state = StateFolder(path, kept=True)
    if not (path / "objects.json").exists():
        raise InvalidError("--local", f"{path} is no state folder of `seedbed run`")
    yield FolderSource(state)


class FolderSource:
    """A `Source` on a state folder."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state

    @property
    def namespace(self) -> str:
        """The one namespace of all objects where there is one, else `default`."""
        spaces = {obj["metadata"]["namespace"] for obj in self._state.load()["objects"]}
        return spaces.pop() if len(spaces) == 1 else "default"

    async def objects(self, kind: Kind, namespace: str | None) -> list[Raw]:
        """From the folder."""
        return [
            obj
            for obj in self._state.load()["objects"]
            if obj["kind"] == kind.name and namespace in (None, obj["metadata"]["namespace"])
        ]

    async def object(self, kind: Kind, namespace: str, name: str) -> Raw:
        """From the folder."""
        for obj in await self.objects(kind, namespace):
            if obj["metadata"]["name"] == name:
                return obj
        raise NotFoundError(kind.name, f"{namespace}/{name}")

    async def events(self, obj: Raw) -> list[Mapping[str, Any]]:
        """From the folder."""
        metadata = obj["metadata"]
        about = [obj["kind"], metadata["namespace"], metadata["name"]]
        found = [one for one in self._state.load()["events"] if one["about"] == about]
        return [{**one, "age": age(one["last"])} for one in found]

    @asynccontextmanager
    async def watch(
        self, kind: Kind, namespace: str, name: str
    ) -> AsyncIterator[AsyncIterator[Raw]]:
        """Reads the folder again and again."""
        yield self._changes(kind, namespace, name)

    async def _changes(self, kind: Kind, namespace: str, name: str) -> AsyncIterator[Raw]:
        last = None
        while True:
            current = await self.object(kind, namespace, name)
            if current["metadata"]["resourceVersion"] != last:
                last = current["metadata"]["resourceVersion"]
                yield current
            await asyncio.sleep(_SAVE_EVERY)

    async def steps(self, namespace: str, workflow: str) -> Sequence[Mapping[str, Any]]:
        """From the journal."""
        async with self._history(namespace, workflow) as (history, run):
            return await history.steps(run)

    async def result(self, namespace: str, workflow: str) -> Any:
        """From the journal."""
        async with self._history(namespace, workflow) as (history, run):
            return await history.result(run)

    async def checkpoints(
        self, namespace: str, workflow: str, run: str | None
    ) -> Mapping[str, Any]:
        """From the store."""
        from seedbed.runtime.api.checkpoints import told  # as below
        from seedbed.runtime.store.checkpoints import SqlCheckpoints
        from seedbed.runtime.store.sql import SqlStore

        async with self._newest(namespace, workflow) as (store, row):
            assert isinstance(store, SqlStore)
            found = await SqlCheckpoints(store).of_run(run or row.run)
            return {"run": run or row.run, "checkpoints": [told(one) for one in found]}

    async def costs(self, by: str, **given: str) -> Mapping[str, Any]:
        """From the ledger."""
        from seedbed.runtime.api.costs import spending  # as below
        from seedbed.runtime.store.sql_ledger import SqlLedger

        since = float(given.pop("since", "0"))
        async with self._store() as store:
            return await spending(SqlLedger(store), by, since=since, **given)

    async def routing_report(self, namespace: str) -> Mapping[str, Any]:
        """From the ledger and the outcomes."""
        from seedbed.runtime.api.costs import curves  # as below
        from seedbed.runtime.store.outcomes import SqlOutcomes
        from seedbed.runtime.store.sql_ledger import SqlLedger

        async with self._store() as store:
            return await curves(SqlLedger(store), SqlOutcomes(store), namespace)

    async def cache_stats(self, namespace: str, days: int) -> Mapping[str, Any]:
        """From the state folder's store."""
        from seedbed.runtime.api.cache import counted  # as below
        from seedbed.runtime.store.answers import SqlAnswers

        async with self._store() as store:
            return await counted(await SqlAnswers.open(store), namespace, days)

    async def cache_invalidate(self, namespace: str, tag: str, model: str) -> int:
        """From the state folder's store, which no process uses meanwhile."""
        from seedbed.runtime.llm.cache.invalidation import invalidate  # as below
        from seedbed.runtime.store.answers import Selection, SqlAnswers

        async with self._store() as store:
            chosen = Selection(namespace, tag, model)
            return await invalidate(await SqlAnswers.open(store), None, chosen)

    async def batches(self, namespace: str) -> Mapping[str, Any]:
        """From the state folder's store."""
        from seedbed.runtime.api.batches import batches_of  # as below
        from seedbed.runtime.store.batches import SqlBatches

        async with self._store() as store:
            return await batches_of(SqlBatches(store), namespace)

    async def batch(self, name: str) -> Mapping[str, Any]:
        """From the state folder's store."""
        from seedbed.runtime.api.batches import found  # as below
        from seedbed.runtime.llm.batch.offline.form import batch_form
        from seedbed.runtime.store.batches import SqlBatches

        async with self._store() as store:
            return batch_form(await found(SqlBatches(store), name))

    async def cancel_batch(self, name: str) -> Mapping[str, Any]:
        """In the state folder's store; the next run ends it."""
        from seedbed.runtime.llm.batch.offline.form import batch_form  # as below
        from seedbed.runtime.store.batches import SqlBatches, cancelled

        async with self._store() as store:
            return batch_form(await cancelled(SqlBatches(store), name))

    async def analysis(self, namespace: str, workflow: str, page: str) -> Mapping[str, Any]:
        """From the journals."""
        from seedbed.runtime.workflow.planning import insight  # as below
        from seedbed.runtime.workflow.record_of_runs import PAGES  # likewise

        async with self._newest(namespace, workflow) as (store, row):
            if page in PAGES:
                return await PAGES[page](store, namespace, workflow)
            return insight.PAGES[page](await insight.of_run(store, row))

    async def seed_decisions(
        self,
        namespace: str,
        layer: str,
        after: int,
        token: str,  # noqa: ARG002  # who may read the folder may read this
    ) -> Sequence[Mapping[str, Any]]:
        """From the newest checkpoint."""
        await self.object(SEED_LAYER, namespace, layer)
        kept = sorted((self._state.path / "seeds" / f"{namespace}.{layer}").glob("*.safetensors"))
        told = _seed_progress(kept[-1]).get("decisions", ()) if kept else ()
        return [one for one in told if one["number"] > after]

    async def picture(self, namespace: str, workflow: str, form: str) -> str:
        """From the journals."""
        from seedbed.runtime.workflow.planning import insight, picture  # as below

        async with self._newest(namespace, workflow) as (store, row):
            found = await insight.of_run(store, row)
            return picture.picture_named(form)(found, f"Workflow {namespace}/{workflow}")

    async def items(
        self, namespace: str, workflow: str, step: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        """From the journal: those of a step that has ended."""
        from seedbed.runtime.workflow.step_items import StepItems, step_key  # as below

        async with self._newest(namespace, workflow) as (store, row):
            async for event in StepItems(store, None).follow(row.run, step_key(step)):
                if event is not None:
                    yield {"id": event.id, "kind": event.kind, "data": event.data}

    async def follow(self, namespace: str, workflow: str) -> AsyncIterator[Mapping[str, Any]]:
        """From the journal, which is looked at again and again."""
        from seedbed.runtime.workflow.live import live_runs  # as below

        async with (
            self._newest(namespace, workflow) as (store, row),
            live_runs(store, None, look_every=_SAVE_EVERY) as live,
        ):
            async for event in live.follow(row.run):
                if event is not None:
                    yield {"id": event.id, "kind": event.kind, "data": event.data}

    @asynccontextmanager
    async def _history(
        self, namespace: str, workflow: str
    ) -> AsyncIterator[tuple[StoredHistory, str]]:
        """What the store tells, and the id of the Workflow's newest run."""
        from seedbed.runtime.workflow.history import StoredHistory  # as below

        async with self._newest(namespace, workflow) as (store, row):
            yield StoredHistory(store), row.run

    @asynccontextmanager
    async def _newest(self, namespace: str, workflow: str) -> AsyncIterator[tuple[Store, RunRow]]:
        """The store, and the Workflow's newest run."""
        async with self._store() as store:
            rows = await store.runs(namespace, workflow)
            if not rows:
                raise NotFoundError("Run", f"of Workflow {namespace}/{workflow}")
            yield store, rows[0]

    @asynccontextmanager
    async def _store(self) -> AsyncIterator[SqlStore]:
        # Lists of objects need no database.
        from seedbed.runtime.store.sql import SqlStore

        store = SqlStore.open(self._state.database)
        try:
            yield store
        finally:
            await store.close()


def _event(recorded: Any) -> dict[str, Any]:
    about, event = recorded.about, recorded.event
    return {
        "about": [about.kind, about.namespace, about.name],
        "type": event.type,
        "reason": event.reason,
        "message": event.message,
        "count": recorded.count,
        "last": recorded.last.isoformat(),
    }


def _seed_progress(file: Path) -> Mapping[str, Any]:
    """What a checkpoint of seeds holds beside its tensors; it stands in the file's head, as JSON."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        about = orjson.loads(stream.read(size))["__metadata__"]
    found: Mapping[str, Any] = orjson.loads(orjson.loads(about["extra"]).get("progress", "{}"))
    return found


def _remove_unused(path: Path) -> None:
    try:
        with StateFolder(path, kept=False).locked():
            shutil.rmtree(path)
    except (UnavailableError, OSError):
        return  # in use, or gone already
