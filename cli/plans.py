"""`seedbed plan`: documents with steps that are too large for an object, kept by their content.

What reads a plan is imported when there is one to be read.
"""
# ruff: noqa: PLC0415 -- see above

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedbed.cli.options import Namespace, Place, in_cluster, read

if TYPE_CHECKING:
    from seedbed.crds.step import Step

app = typer.Typer(
    no_args_is_help=True,
    help="Keep plans that are too large for an object; a Workflow names them by their content.",
)


@app.command()
@in_cluster
def push(
    *,
    file: Annotated[Path, typer.Argument(help="Steps as YAML or JSON, also packed.")],
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Check a plan and keep it; prints the URL that a Workflow's spec.stepsFrom.artifact names.

    The graph is compiled first, so what cannot run is refused here.
    """

    async def command(source: Any) -> int:
        # The models take a moment to load.
        from seedbed.crds.steps_document import packed

        steps = _checked(file)
        told = await source.push_plan(namespace or source.namespace, packed(steps))
        print(told["url"])
        return 0

    read(command, place)


@app.command("list")
@in_cluster
def listed(
    *,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """List the plans of a namespace, the last pushed first."""

    async def command(source: Any) -> int:
        from seedbed.cli import output  # likewise

        rows = [
            [
                plan["url"],
                plan["steps"],
                plan["bytes"],
                output.age(datetime.fromtimestamp(plan["pushedAt"], UTC).isoformat()),
            ]
            for plan in await source.plans(namespace or source.namespace)
        ]
        output.console().print(output.plain_table(["URL", "STEPS", "BYTES", "AGE"], rows))
        return 0

    read(command, place)


@app.command()
@in_cluster
def delete(
    *,
    url: Annotated[str, typer.Argument(help="URL or SHA-256 of the plan.")],
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Forget a plan. Runs that began with it have their steps."""

    async def command(source: Any) -> int:
        await source.remove_plan(namespace or source.namespace, url.rpartition("/")[2])
        return 0

    read(command, place)


def _checked(file: Path) -> tuple[Step, ...]:
    from seedbed.crds.errors import InvalidError  # likewise
    from seedbed.crds.graph_builder import graph_problems
    from seedbed.crds.steps_document import read_steps
    from seedbed.crds.workflow import WorkflowSpec

    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidError(str(file), error.strerror or str(error)) from error
    steps = read_steps(data, str(file))
    problems = graph_problems(WorkflowSpec(steps=()).model_copy(update={"steps": steps}))
    if problems:
        raise InvalidError(str(file), problems[0].message)
    return steps
