"""Values that nest too deep, or are no JSON, are refused where they come in and harm nobody later."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from seedbed.crds.engine_requests import Signal
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import StepResult
from seedbed.crds.values import DEEPEST, written
from seedbed.crds.wire import encode
from seedbed.runtime.workflow.decide import asked
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import RunFinished, StepFailed
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.runs import call, play, request


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_value_has_so_many_levels_and_no_more() -> None:
    assert orjson.loads(written(nested(DEEPEST))) == nested(DEEPEST)
    with pytest.raises(TypeError, match="more than 200 levels deep"):
        written(nested(DEEPEST + 1))
    flat = [[number] for number in range(10 * DEEPEST)]
    assert orjson.loads(written(flat)) == flat


def test_what_is_no_json_is_told_as_it_is() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        written(object())
    with pytest.raises(TypeError, match="Dict key must be str"):
        written({1: 2})
    assert written({1: 2}, any_keys=True) == b'{"1":2}'


@pytest.mark.parametrize("levels", [DEEPEST, DEEPEST + 1, 254, 255, 900])
def test_no_output_is_too_deep_for_those_who_write_what_holds_it(levels: int) -> None:
    """Two of them make a result that is deeper still: the run says so, and can be written."""
    run = play(request(call("a"), call("b")), lambda _: nested(levels))
    end = run.state.finished
    assert end is not None
    assert (end.phase, end.reason) == (
        ("Failed", "ResultInvalid") if levels == DEEPEST else ("Failed", "StepFailed")
    )
    assert "nests more than 200 levels deep" in end.message
    assert encode_records(run.journal).data
    assert encode(summarise(run.state))


def test_inputs_and_items_that_get_too_deep_fail_their_step() -> None:
    deep = {"deep": nested(DEEPEST - 1)}
    for step in (
        call("b", args={"x": "${[[steps.a.output]]}"}),
        call("b", forEach="[steps.a.output]"),
    ):
        run = play(request(call("a"), step), lambda task: deep if task.key.step == "a" else 1)
        (failure,) = [record for record in run.journal if isinstance(record, StepFailed)]
        assert failure.error.message.startswith("spec.steps[1]")
        assert "nests more than 200 levels deep" in failure.error.message


def test_an_event_that_is_too_deep_is_refused() -> None:
    state = RunState(request(call("a")))
    signal = Signal("run-1", "paid", "1", nested(900), "kim")
    with pytest.raises(InvalidError, match="payload: cannot be written"):
        asked(state, signal, 1.0)


def test_a_result_of_the_same_depth_is_kept() -> None:
    run = play(request(call("a")), lambda _: nested(DEEPEST))
    assert isinstance(run.state.finished, RunFinished)
    assert run.state.finished.result == nested(DEEPEST)
    assert encode(StepResult("run-1", run.state.steps["a"].units[0].key, 1, "w", nested(DEEPEST)))
