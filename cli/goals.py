"""Takes goals apart, here or through Seedbed's API, and shows the trees."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.tree import Tree as Branch

from seedbed.cli import output
from seedbed.cli.source import Source
from seedbed.crds.errors import InvalidError
from seedbed.runtime.workflow.planning.goals.planner import Bounds, decompose
from seedbed.runtime.workflow.planning.goals.template import TemplatePlanner, read_template
from seedbed.runtime.workflow.planning.goals.tree import GoalTree, read_tree
from seedbed.runtime.workflow.planning.goals.view import page

if TYPE_CHECKING:
    from seedbed.cli.cluster import ClusterSource

_SHOWN_LEVELS = 3
_SHOWN_PARTS = 12


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asks for."""

    goal: str
    template: Path | None
    model: str | None
    max_tasks: int
    max_depth: int
    max_calls: int


async def decompose_here(wanted: Wanted, file: Path | None) -> int:
    """Takes a goal apart by rules, in this process."""
    if wanted.template is None or wanted.model is not None:
        raise InvalidError("--here", "takes goals apart by a template: name one, and no model")
    planner = TemplatePlanner(read_template(wanted.template))
    bounds = Bounds(wanted.max_tasks, wanted.max_depth)
    tree = await decompose(wanted.goal, [planner], bounds)
    return _shown(tree, file)


async def decompose_there(source: Source, wanted: Wanted, namespace: str | None) -> int:
    """Has Seedbed's API take a goal apart and keep the tree."""
    template = None
    if wanted.template is not None:
        template = read_template(wanted.template).model_dump(mode="json", by_alias=True)
    asked = {
        "namespace": namespace or source.namespace,
        "goal": wanted.goal,
        "template": template,
        "model": wanted.model,
        "maxTasks": wanted.max_tasks,
        "maxDepth": wanted.max_depth,
        "maxCalls": wanted.max_calls,
    }
    told = await cast("ClusterSource", source).api.send("/api/v3/tasks/decompose", asked)
    print(f"{told['id']}")
    print(f"{told['tasks']:,} tasks on {told['depth']:,} levels, {told['leaves']:,} without parts")
    if told["cut"]:
        print(f"not complete: {told['cut']}")
    return 0


async def tree_there(source: Source, name: str, file: Path | None) -> int:
    """Shows a tree that Seedbed's API keeps."""
    api = cast("ClusterSource", source).api
    path = f"/api/v3/tasks/{name if '/' in name else f'{source.namespace}/{name}'}/hierarchy"
    if file is not None and file.suffix in (".html", ".htm"):
        return _written(file, await api.text(f"{path}?form=html"))
    if file is not None:
        return _written(file, await api.text(path))
    told = await api.read(path, levels=_SHOWN_LEVELS)
    print(f"{told['total']:,} tasks on {told['depth']:,} levels")
    _print(told["root"])
    return 0


async def tree_of_file(path: Path, file: Path | None) -> int:
    """Shows a tree from the document that `decompose --here -o FILE.json` wrote."""
    try:
        document = await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise InvalidError(str(path), str(error)) from error
    return _shown(read_tree(document), file)


def _shown(tree: GoalTree, file: Path | None) -> int:
    """Prints the first levels, or writes the whole tree as a page or a document."""
    print(f"{len(tree.tasks):,} tasks on {tree.depth:,} levels, {len(tree.leaves):,} without parts")
    if file is None:
        _print(_nested(tree, 0, _SHOWN_LEVELS))
        return 0
    if file.suffix in (".html", ".htm"):
        return _written(file, page(tree))
    return _written(file, tree.document().decode())


def _nested(tree: GoalTree, number: int, levels: int) -> dict[str, Any]:
    parts = tree.children[number] if levels else []
    children = [_nested(tree, part, levels - 1) for part in parts]
    return {"text": tree.tasks[number].text, "tasks": tree.sizes[number], "children": children}


def _print(root: Mapping[str, Any]) -> None:
    def grow(branch: Branch, task: Mapping[str, Any]) -> None:
        parts = task.get("children") or []
        for part in parts[:_SHOWN_PARTS]:
            grow(branch.add(_named(part)), part)
        if len(parts) > _SHOWN_PARTS:
            branch.add(f"[dim]… {len(parts) - _SHOWN_PARTS:,} more[/dim]")

    trunk = Branch(_named(root))
    grow(trunk, root)
    output.console().print(trunk)


def _named(task: Mapping[str, Any]) -> str:
    text = str(task["text"]).replace("[", r"\[")
    return f"{text} [dim]{task['tasks']:,} tasks[/dim]" if task["tasks"] else text


def _written(file: Path, text: str) -> int:
    try:
        file.write_text(text + os.linesep)
    except OSError as error:
        raise InvalidError(str(file), str(error)) from error
    print(f"{file}: {len(text):,} characters")
    return 0
