"""What the commands about checkpoints do. Each returns its exit code."""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from seedbed.cli import output
from seedbed.cli.source import Source
from seedbed.crds.checkpoint import forked, restored
from seedbed.crds.errors import ConflictError, InvalidError, NotFoundError
from seedbed.crds.kinds import BY_NAME
from seedbed.runtime.workflow.checkpoint.keys import new_line, parse

if TYPE_CHECKING:
    from seedbed.cli.cluster import ClusterSource

_WORKFLOW = BY_NAME["Workflow"]
_KEYS = "keys"
_COLUMNS = ("NUMBER", "AGE", "STEPS", "KIND", "SIZE", "RATIO", "CAUSE", "KEY", "ID")


@dataclass(frozen=True, slots=True)
class Fork:
    """What a user wants: `settings` as `PARAM=YAML`, steps `again`; `printed` makes nothing."""

    name: str
    run: str | None
    checkpoint: int | None
    settings: tuple[str, ...]
    again: tuple[str, ...]
    printed: bool


async def take(source: Source, workflow: str, namespace: str | None) -> int:
    """Takes one and says which."""
    cluster = cast("ClusterSource", source)
    taken = await cluster.take_checkpoint(namespace or source.namespace, workflow)
    print(
        f"checkpoint {taken['number']} of {taken['run']}: {taken['ended']} of {taken['total']} steps, "
        f"{taken['sizeBytes']:,} bytes"
    )
    return 0


async def listed(
    source: Source, workflow: str, namespace: str | None, run: str | None, form: str
) -> int:
    """Prints a run's checkpoints."""
    told = await source.checkpoints(namespace or source.namespace, workflow, run)
    if form in ("json", "yaml"):
        print(output.serialised(dict(told), form))
        return 0
    console = output.console()
    if not told["checkpoints"]:
        print(f"{told['run']} has no checkpoints")
        return 0
    console.print(output.plain_table(_COLUMNS, [_row(one) for one in told["checkpoints"]]))
    return 0


async def restore(
    source: Source, workflow: str, namespace: str | None, run: str | None, checkpoint: int
) -> int:
    """Patches the Workflow once it is known that the checkpoint is there."""
    cluster = cast("ClusterSource", source)
    space = namespace or source.namespace
    found = await _find(source, space, workflow, run, checkpoint)
    obj = await source.object(_WORKFLOW, space, workflow)
    await cluster.patch(_WORKFLOW, space, workflow, restored(obj, found["run"], checkpoint))
    print(
        f"workflow {workflow} goes on from checkpoint {checkpoint} of {found['run']}: "
        f"{found['ended']} of {found['total']} steps had ended there"
    )
    return 0


async def fork(source: Source, workflow: str, namespace: str | None, wish: Fork) -> int:
    """Makes the new Workflow, or prints its manifest."""
    space = namespace or source.namespace
    params = dict(_setting(text) for text in wish.settings)
    obj = await source.object(_WORKFLOW, space, workflow)
    run = wish.run or output.at(obj, ".status.runId")
    if wish.checkpoint is not None:
        run = (await _find(source, space, workflow, wish.run, wish.checkpoint))["run"]
    if not run:
        raise NotFoundError("Run", f"of Workflow {space}/{workflow}")
    made = forked(
        obj,
        name=wish.name,
        run=run,
        checkpoint=wish.checkpoint,
        params=params,
        again=wish.again,
    )
    if wish.printed:
        print(output.serialised(made, "yaml"))
        return 0
    if not await cast("ClusterSource", source).create(_WORKFLOW, made):
        raise ConflictError(f"there is a Workflow {wish.name} already")
    print(f"workflow {wish.name} created: it goes on from {run}")
    return 0


async def rotate_file(path: Path) -> int:
    """Adds a key to a key ring's file."""
    try:
        _rewrite(path)
    except OSError as error:
        raise InvalidError("--file", str(error)) from error
    return 0


def _rewrite(path: Path) -> None:
    """Two who rotate at once must not lose a key: the one who waited reads what the other wrote."""
    while True:
        with path.open() as ring:
            fcntl.flock(ring, fcntl.LOCK_EX)
            if path.stat().st_ino == os.fstat(ring.fileno()).st_ino:
                _replace(path, _with_new_key(ring.read(), str(path)))
                return


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # before anything is encrypted under the new key
    # A reader sees the old or the new, never half.
    fresh.replace(path)


async def rotate_secret(source: Source, secret: str) -> int:
    """Adds a key to the key ring in a Secret."""
    cluster = cast("ClusterSource", source)
    namespace, _, name = secret.partition("/")
    if not name:
        raise InvalidError("--secret", "expected NAMESPACE/NAME")
    known = await cluster.secret(namespace, name)
    text = base64.b64decode((known.get("data") or {}).get(_KEYS, "")).decode()
    fresh = base64.b64encode(_with_new_key(text, secret).encode()).decode()
    # With its version: two who rotate at once must not lose a key.
    version = {"resourceVersion": known["metadata"]["resourceVersion"]}
    await cluster.patch_secret(namespace, name, {"metadata": version, "data": {_KEYS: fresh}})
    return 0


def _with_new_key(text: str, where: str) -> str:
    """The key ring's text with one key more; says which."""
    known = parse(text, where)
    line = new_line()
    name = line.partition(":")[0]
    print(f"{name} encrypts from now on; {len(known)} older still decrypt")
    return f"{text.rstrip()}\n{line}"


def _setting(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InvalidError("--set", f"expected PARAM=VALUE, not {text}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InvalidError(f"--set {name}", "the value is no YAML") from error


async def _find(
    source: Source, namespace: str, workflow: str, run: str | None, checkpoint: int
) -> Mapping[str, Any]:
    told = await source.checkpoints(namespace, workflow, run)
    found: Sequence[Mapping[str, Any]] = told["checkpoints"]
    for one in found:
        if one["number"] == checkpoint:
            return one
    numbers = ", ".join(str(one["number"]) for one in found[-10:]) or "none"
    raise InvalidError(
        "--checkpoint", f"{told['run']} has no checkpoint {checkpoint}; there are {numbers}"
    )


def _row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    made = datetime.fromtimestamp(one["createdAt"], UTC).isoformat()
    kind = f"delta of {one['base']}" if one["base"] else "full"
    steps = f"{one['ended']}/{one['total']}"
    ratio = f"{one['compressionRatio']:.1f}"
    head = (one["number"], output.age(made), steps, kind, f"{one['sizeBytes']:,}", ratio)
    return (*head, one["cause"], one["key"], one["id"])
