"""The commands by which people and scripts tell a run something: approve, signal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from seedbed.cli.options import Name, Namespace, Place, in_cluster, read

if TYPE_CHECKING:
    from seedbed.cli.cluster import ClusterSource
    from seedbed.cli.source import Source

app = typer.Typer()


@app.command()
@in_cluster
def approve(
    *,
    workflow: Name,
    step: Annotated[str, typer.Argument(help="The approve step.")],
    reject: Annotated[bool, typer.Option("--reject", help="Say no.")] = False,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Approve a step that waits for a person, or reject it."""
    body = {"decision": "reject" if reject else "approve", "comment": comment}

    async def decide(source: Source) -> int:
        path = f"approvals/{step}"
        told = await _tell(source, namespace, workflow, path, body, "")
        word = "rejected" if reject else "approved"
        print(f"step {step} of {workflow} {word} as {told['decision']['by']}")
        return 0

    read(decide, place)


@app.command()
@in_cluster
def signal(
    *,
    workflow: Name,
    event: Annotated[str, typer.Argument(help="Name of the event.")],
    payload: Annotated[
        str, typer.Option(help="JSON, which becomes the output of the step that waits.")
    ] = "null",
    key: Annotated[str, typer.Option(help="Of events with the same key, the first counts.")] = "",
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Tell a Workflow's run of an event that a step waits for, or will wait for."""
    try:
        body = json.loads(payload)
    except ValueError as error:
        raise typer.BadParameter(f"expected JSON: {error}", param_hint="--payload") from error

    async def tell(source: Source) -> int:
        await _tell(source, namespace, workflow, f"events/{event}", body, key)
        print(f"event {event} sent to {workflow}")
        return 0

    read(tell, place)


async def _tell(
    source: Source, namespace: str | None, workflow: str, path: str, body: Any, key: str
) -> Any:
    cluster = cast("ClusterSource", source)
    return await cluster.tell(namespace or source.namespace, workflow, path, body, key)
