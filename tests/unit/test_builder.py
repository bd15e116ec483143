"""Plans written in Python: the same graph as written in YAML, for everything that a step may say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.crds.base import Model
from seedbed.crds.builder import (
    OPTIONS,
    Plan,
    either,
    flag,
    func,
    index,
    item,
    output,
    params,
    run,
    size,
)
from seedbed.crds.errors import InvalidError
from seedbed.crds.formulas import Formula, cel
from seedbed.crds.graph import Graph
from seedbed.crds.graph_builder import build_graph
from seedbed.crds.step import BODIES, Step
from seedbed.crds.workflow import WorkflowSpec

SEEDBED = str(Path(sys.executable).parent / "seedbed")
CALL = {"entry": "m:f"}


def graph(text: str) -> Graph:
    return build_graph(WorkflowSpec.model_validate(yaml.safe_load(text)))


def of_data(plan: Plan) -> None:
    collect = plan.call("collect", "team.steps:collect", limit=params.limit, deep={"x": [run.id]})
    read = plan.agent(
        "read-all",
        "reader",
        for_each=collect.output.documents,
        when=(item.size > 3) & ~item.draft,
        document=item.text,
        label=f"{index + 1}: {item.name}",
    )
    plan.call("table", "team.steps:table", rows=read, first=read[0], needs=[collect])
    plan.set(result=either(size(read) > 0, read.output, []))


OF_DATA = """
params: {limit: 12}
result: '(size(steps["read-all"].output) > 0) ? steps["read-all"].output : []'
steps:
  - name: collect
    call: {entry: team.steps:collect, args: {limit: "${params.limit}", deep: {x: ["${run.id}"]}}}
  - name: read-all
    agent: {name: reader, inputs: {document: "${item.text}", label: "${index + 1}: ${item.name}"}}
    forEach: steps.collect.output.documents
    when: (item.size > 3) && !item.draft
  - name: table
    call:
      entry: team.steps:table
      args: {rows: '${steps["read-all"].output}', first: '${steps["read-all"].output[0]}'}
    needs: [collect]
"""


def of_control(plan: Plan) -> None:
    ask = plan.approve("ask", f"Send {params.count} letters?", deadline="1h", default="reject")
    paid = plan.wait("paid", event="payment", timeout="2h", needs=[ask])
    plan.wait("later", until=func("timestamp", "2030-01-01T00:00:00Z"), needs=[paid])
    plan.wait("nap", duration="5s")
    choice = plan.branch("choice", flag("fast"), then=["quick"], otherwise=["slow", "slower"])
    quick = plan.call("quick", "m:f", needs=[choice], timeout="3s", args={"timeout": 3})
    slow = plan.call("slow", "m:f", on_error={"action": "skip"}, retry={"attempts": 2})
    plan.call("slower", "m:f", repeat={"until": output.done == True, "max": 3})  # noqa: E712  # CEL
    plan.call("either", "m:f", needs=[quick, slow], join="any", allow_failure=True, pool="big")
    plan.goal("parts", f"Write {params.count} letters", max_depth=3, model="m", needs=[ask])
    plan.container("pack", "busybox:1.37", command=["sh"], args=[f"echo {params.count}"])


OF_CONTROL = """
params: {count: 3}
steps:
  - name: ask
    approve: {message: "Send ${params.count} letters?", deadline: 1h, default: reject}
  - {name: paid, wait: {event: payment, timeout: 2h}, needs: [ask]}
  - {name: later, wait: {until: 'timestamp("2030-01-01T00:00:00Z")'}, needs: [paid]}
  - {name: nap, wait: {duration: 5s}}
  - {name: choice, branch: {when: flag("fast"), then: [quick], else: [slow, slower]}}
  - {name: quick, call: {entry: "m:f", args: {timeout: 3}}, needs: [choice], timeout: 3s}
  - {name: slow, call: {entry: "m:f"}, onError: {action: skip}, retry: {attempts: 2}}
  - {name: slower, call: {entry: "m:f"}, repeat: {until: output.done == true, max: 3}}
  - name: either
    call: {entry: "m:f"}
    needs: [quick, slow]
    join: any
    allowFailure: true
    pool: {name: big}
  - {name: parts, goal: {text: "Write ${params.count} letters", maxDepth: 3, model: m}, needs: [ask]}
  - name: pack
    container: {image: "busybox:1.37", command: [sh], args: ["echo ${params.count}"]}
"""


def of_workflows(plan: Plan) -> None:
    inner = Plan("inner", params={"a": 1})
    one = inner.call("one", "m:f", x=params.a)
    inner.set(result=one.output)
    each = plan.workflow("each", "template", for_each=[1, 2], number=item)
    plan.workflow("here", inner, a=each.output[0])
    undo = {"entry": "m:undo", "args": {"what": output.id}}
    plan.call("book", "m:book", compensate=undo, on_error={"action": "compensate"})


OF_WORKFLOWS = """
steps:
  - name: each
    forEach: "[1, 2]"
    workflow: {name: template, params: {number: "${item}"}}
  - name: here
    workflow:
      steps:
        - {name: one, call: {entry: "m:f", args: {x: "${params.a}"}}}
      result: steps.one.output
      params: {a: "${steps.each.output[0]}"}
  - name: book
    call: {entry: "m:book"}
    compensate: {entry: "m:undo", args: {what: "${output.id}"}}
    onError: {action: compensate}
"""


@pytest.mark.req("DSX-19")
@pytest.mark.parametrize(
    ("fill", "text", "spec"),
    [
        (of_data, OF_DATA, {"params": {"limit": 12}}),
        (of_control, OF_CONTROL, {"params": {"count": 3}}),
        (of_workflows, OF_WORKFLOWS, {}),
    ],
    ids=["data", "control", "workflows"],
)
def test_both_forms_give_an_equal_graph(
    fill: Callable[[Plan], None], text: str, spec: dict[str, Any]
) -> None:
    with Plan("plan", **spec) as plan:
        fill(plan)
    assert plan.graph == graph(text)
    assert plan.spec == WorkflowSpec.model_validate(yaml.safe_load(text))
    rendered = yaml.safe_load(plan.yaml())
    assert build_graph(WorkflowSpec.model_validate(rendered["spec"])) == graph(text)


def example(model: type[Model], name: str) -> Any:
    examples = model.model_fields[name].examples
    assert examples
    return examples[0]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_option_of_a_step_has_a_place(name: str) -> None:
    plan = Plan("plan")
    plan.call("a", "m:f", **{name: example(Step, name)})
    alias = Step.model_fields[name].alias or name
    written = {"name": "a", "call": CALL, alias: example(Step, name)}
    assert plan.spec == WorkflowSpec.model_validate({"steps": [written]})


@pytest.mark.parametrize("body", BODIES)
def test_every_body_of_a_step_has_a_place(body: str) -> None:
    plan = Plan("plan")
    plan.step("a", **{body: example(Step, body)})
    written = {"name": "a", body: example(Step, body)}
    assert plan.spec == WorkflowSpec.model_validate({"steps": [written]})


@pytest.mark.parametrize("name", sorted(WorkflowSpec.model_fields.keys() - {"steps"}))
def test_every_field_of_a_workflow_has_a_place(name: str) -> None:
    plan = Plan("plan", **{name: example(WorkflowSpec, name)})
    alias = WorkflowSpec.model_fields[name].alias or name
    assert plan.spec == WorkflowSpec.model_validate({alias: example(WorkflowSpec, name)})


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (params.a + 1 > params["b-c"], '(params.a + 1) > params["b-c"]'),
        ((params.a == "x") | (params.b != None), '(params.a == "x") || (params.b != null)'),  # noqa: E711  # CEL
        (~(params.a & params.b), "!(params.a && params.b)"),
        (1 - params.a * 2 / params.b % 3, "1 - (((params.a * 2) / params.b) % 3)"),
        (params.name.startsWith("a"), 'params.name.startsWith("a")'),
        (item.within(["a", 'b"']), 'item in ["a", "b\\""]'),
        (params["in"], 'params["in"]'),
        (func("math.abs", -1), "math.abs(-1)"),
        (flag("new", item.user), 'flag("new", item.user)'),
        ((params.a + params.b).size(), "(params.a + params.b).size()"),
    ],
)
def test_formulas_are_written_as_cel(formula: Formula, text: str) -> None:
    assert cel(formula) == text


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: bool(params.a),
        lambda: 1 < params.a < 3,
        lambda: list(params.items),
        lambda: f"{params.a:>10}",
    ],
)
def test_what_needs_a_value_is_refused_in_python(mistake: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="has no value yet"):
        mistake()


def test_a_plan_is_judged_when_its_block_ends() -> None:
    with pytest.raises(InvalidError) as refused, Plan("plan") as plan:
        plan.call("a", "m:f", needs=["b"])
    assert refused.value.field == "spec.steps[0].needs[0]"
    with pytest.raises(InvalidError, match=r"maxAttempts"), Plan("plan") as plan:
        plan.call("a", "m:f", retry={"max_attempts": 3})


def rendered(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = folder / "plan.py"
    file.write_text(text)
    return subprocess.run(
        [SEEDBED, "render", str(file)], capture_output=True, text=True, timeout=60, check=False
    )


def test_render_prints_the_manifests_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("ENTRY = 'm:f'\n")
    done = rendered(
        tmp_path,
        "from seedbed.crds.builder import Plan\n"
        "from shared import ENTRY\n"
        "for name in ('one', 'two'):\n"
        "    with Plan(name) as plan:\n"
        "        plan.call('a', ENTRY)\n"
        "    globals()[name] = plan\n",
    )
    assert done.returncode == 0, done.stderr
    names = [one["metadata"]["name"] for one in yaml.safe_load_all(done.stdout)]
    assert sorted(names) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "makes no Plan"),
        ("\n\nunknown\n", "plan.py:3: NameError"),
        (
            "from seedbed.crds.builder import Plan\nwith Plan('p') as p:\n    p.call('A', 'm:f')\n",
            "spec.steps[0].name",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    done = rendered(tmp_path, text)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
