"""What `seedbed run` does and shows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from seedbed.cli import output, progress
from seedbed.cli.embedded import manifests
from seedbed.cli.embedded.session import play, runs, succeeded, users_objects
from seedbed.cli.embedded.state import StateFolder, folder
from seedbed.cli.standard import missing_pools
from seedbed.controllers.plan import Raw
from seedbed.runtime.llm import models as models_file


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    paths: tuple[Path, ...]
    namespace: str
    models: Path | None
    keep: Path | None
    timeout: float


async def run(options: Options) -> int:
    """Run the manifests, show what becomes of them; 0 where all is as wanted."""
    wanted = manifests.read(options.paths, options.namespace)
    wanted.objects.extend(missing_pools(wanted.objects))
    models = models_file.load(options.models)
    state = folder(options.keep)
    console = output.console()
    with state.locked():
        _log_to(state)
        with progress.shown(console) as display:
            cluster, results = await play(wanted, state, models, display, options.timeout)
    found = users_objects(cluster)
    _show(console, found, results)
    _show_next(console, found, state, options)
    return 0 if all(map(succeeded, found)) else 1


def _show(console: Console, found: Sequence[Raw], results: Mapping[str, Any]) -> None:
    console.print()
    console.print(output.conditions(found))
    for name, value in results.items():
        console.print(f"\n[bold]Result of {name}[/bold]")
        for part in output.result(value):
            console.print(part)


def _show_next(
    console: Console, found: Sequence[Raw], state: StateFolder, options: Options
) -> None:
    """Three commands to try."""
    names = [obj["metadata"]["name"] for obj in found if runs(obj)]
    local = f"--local {state.path}"
    files = " ".join(f"-f {path}" for path in options.paths)
    commands = [f"seedbed get {local}"]
    if names:
        commands = [
            f"seedbed logs {names[0]} {local}",
            f"seedbed describe workflow {names[0]} {local}",
        ]
    commands.append(f"kubectl apply {files}")
    console.print("\n[bold]Next[/bold]")
    for command in commands:
        console.print(f"  {command}", soft_wrap=True)


def _log_to(state: StateFolder) -> None:
    """Logs go beside the state: on the screen they would stand between bars."""
    handler = logging.FileHandler(state.path / "seedbed.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
