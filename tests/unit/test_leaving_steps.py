"""Functions of steps that end as if the worker around them were to end: they end the step alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.messages import StepKey, StepTask
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.worker.adapters import EntryFailedError, PythonAdapter
from seedbed.runtime.worker.worker import Worker
from tests.conftest import run_async


@pytest.mark.parametrize("how", ["cancelled", "exit", "interrupt"])
def test_a_function_that_leaves_has_failed_and_the_worker_goes_on(how: str) -> None:
    async def body() -> None:
        # A lane of a worker is a task of a group, where a stray cancellation is a quiet end.
        with pytest.raises(EntryFailedError, match="enough") as failed:
            await PythonAdapter().call("tests.steps:lets_go", {"how": how}, "key")
        assert failed.value.kind == ("CancelledError" if how == "cancelled" else "RuntimeError")

    run_async(body())


def test_a_function_that_is_stopped_is_no_failure(tmp_path: Path) -> None:
    async def body() -> None:
        arguments = {"folder": str(tmp_path), "item": 0, "stuck": 0}
        call = asyncio.create_task(
            PythonAdapter().call("tests.steps:stopped_once", arguments, "key")
        )
        while not await asyncio.to_thread((tmp_path / "item-0").exists):
            assert not call.done()
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run_async(body())


def test_a_stray_cancellation_out_of_an_agents_library_is_a_failed_attempt() -> None:
    async def cancelled(program: Mapping[str, Any], task: StepTask) -> Any:
        raise asyncio.CancelledError("of a scope of its own")

    async def body() -> None:
        worker = Worker(
            bus=MemoryBus(),
            coordinator=MemoryCoordinator(),
            gateway_url="",
            namespace="team",
            pool="general",
            adapter="python",
            stopping=asyncio.Event(),
        )
        worker._ask = cancelled  # type: ignore[method-assign]  # it would load an Agent's packages
        key = StepKey("ask")
        task = StepTask("run-1", "team", "plan", key, 1, "agent", {}, {}, 5.0, None, "")
        found = await worker.execute(task)
        assert found.error is not None
        assert found.error.message == "CancelledError in the worker, see its log"

    run_async(body())


def test_a_module_that_exits_when_it_is_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Exception, match=r"cannot be imported: SystemExit\(3\)"):
        run_async(PythonAdapter().call("leaves_at_once:f", {}, "key"))
