"""Saves everything that changes in a model with seeds to one safetensors file, and takes it back.

The file holds the state of all seeds, the weights of those that have any, Adam's moments, and the counts
of epochs. The frozen host is not in it, but what it looks like: a file of another host is refused. No
pickle is read or written. Restored tensors are the saved ones, bit for bit; a file of another specification
is fitted to the one of now, see `refit`.

Where the seeds are sharded, each process writes the weights and moments of its own to a file beside:

    seeds-0000000007.0-of-2.safetensors    layer.* and optimiser.* of the first shard's seeds
    seeds-0000000007.1-of-2.safetensors
    seeds-0000000007.safetensors           the rest; written last, so that it stands for all of them

Each says by number which seeds it holds. So a checkpoint of two shards is one for any number of shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.seeds.custom import Custom
from seedbed.runtime.seeds.layer import SeededLayer
from seedbed.runtime.seeds.places import BrokenError
from seedbed.runtime.seeds.refit import refit
from seedbed.runtime.seeds.state import Core

if TYPE_CHECKING:
    from seedbed.runtime.seeds.model import SeededModel

FORMAT = "seedbed.seeds/1"


def save(model: SeededModel, path: Path, extra: Mapping[str, str]) -> None:
    """Write the file beside `path` and rename it, so that a file is always whole.

    Args:
        model: to save; its state notes the checkpoint's number.
        path: of the file.
        extra: more to keep, such as the position in the data.
    """
    note(model)
    tensors = {f"state.{name}": tensor for name, tensor in model.state.tensors().items()}
    tensors["progress.accuracies"] = torch.tensor(model.accuracies, dtype=torch.float64)
    tensors["progress.counts"] = torch.tensor([model.epoch, model.checkpoints])
    about = {"format": FORMAT, "plan": json.dumps(plan(model)), "extra": json.dumps(dict(extra))}
    if model.group.sharded:
        about["shards"] = str(model.group.size)
    else:
        tensors |= _mine(model)
    _write(path, tensors, about)


def note(model: SeededModel) -> None:
    """A checkpoint is taken: the state says which one holds each seed, in every process of a group."""
    model.checkpoints += 1
    core = model.state.core
    planted = core[:, Core.BLUEPRINT] > 0
    core[:, Core.CHECKPOINT] = torch.where(planted, model.checkpoints, core[:, Core.CHECKPOINT])


def save_shard(model: SeededModel, path: Path) -> None:
    """Write the weights and moments of the seeds that are here.

    Args:
        model: whose seeds are sharded.
        path: of the shard, see `shard_path`.
    """
    _write(path, _mine(model), {"format": FORMAT})


def shard_path(path: Path, shard: int, shards: int) -> Path:
    """Where a shard of the checkpoint at `path` stands."""
    return path.with_name(f"{path.stem}.{shard}-of-{shards}{path.suffix}")


def _mine(model: SeededModel) -> dict[str, Tensor]:
    """The weights of the seeds that have any, and the moments of those that learn, of those here."""
    tensors = {f"optimiser.{name}": held for name, held in model.optimiser.tensors().items()}
    planted = model.state.core[:, Core.BLUEPRINT] > 0
    for at, (layer, span) in enumerate(model.placed()):
        rows = planted[layer.here(span)].nonzero().flatten()
        tensors[f"layer.{at}.seeds"] = rows + layer.held.start
        for name, slab in (("down", layer.down.detach()), ("up", layer.up.detach())):
            tensors[f"layer.{at}.{name}"] = slab if len(rows) == len(slab) else slab[rows]
    return tensors


def _write(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(whole, beside, {**about, "sum": _sum(whole)})
        beside.replace(path)
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from error
    finally:
        beside.unlink(missing_ok=True)


def _sum(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of all tensors; the file's format has none."""
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def load(model: SeededModel, path: Path) -> dict[str, str]:
    """Take a file's state over. Where this raises, the model is as it was.

    Raises:
        NotFoundError: there is no such file.
        BrokenError: it is not as it was written.
        InvalidError: it is no checkpoint, or one of another version.
        UnfitError: it is of another model, or of a specification under which fossils would be lost.
    """
    about, tensors = _read(path)
    if "plan" not in about or "progress.counts" not in tensors:
        raise BrokenError(f"{path.name} is a part of a checkpoint, or lacks one")
    for name, parts in _shards(path, about).items():
        tensors[name] = torch.cat(parts)
    before, now = json.loads(about["plan"]), plan(model)
    if before != now:
        tensors = refit(tensors, before, now)
    counts = tensors["progress.counts"].tolist()
    weights = [_weights(tensors, at, layer) for at, layer in enumerate(model.layers)]
    model.state.restore(_part(tensors, "state."))
    model.optimiser.restore(_part(tensors, "optimiser."))
    for layer, (seeds, down, up) in zip(model.layers, weights, strict=True):
        mine = (seeds >= layer.held.start) & (seeds < layer.held.stop)
        rows = seeds[mine] - layer.held.start
        _lay(layer.down, rows, down[mine])
        _lay(layer.up, rows, up[mine])
    model.epoch, model.checkpoints = counts
    model.accuracies = tuple(tensors["progress.accuracies"].tolist())
    model.refresh()
    extra: dict[str, str] = json.loads(about["extra"])
    return extra


def plan(model: SeededModel) -> dict[str, object]:
    """What a checkpoint has to fit: the host's form, the layers and the blueprints."""
    own = {each.name: each.signature() for each in model.blueprints if isinstance(each, Custom)}
    return {
        **({"forms": own} if own else {}),
        "host": model.form,
        "layers": [
            [
                layer.name,
                layer.seeds,
                layer.routing,
                layer.reads,
                layer.seeds,
                *layer.down.shape[1:],
            ]
            for layer in model.layers
        ],
        "blueprints": [[each.name, each.kind, each.rank] for each in model.blueprints],
        "extended": model.features.extended_lifecycle,
    }


def about(path: Path) -> dict[str, str]:
    """What a checkpoint says of itself.

    Raises:
        BrokenError: it is no whole file, or lacks a shard.
        InvalidError: it is no checkpoint, or one of another version.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            told = _checked(path, opened.metadata() or {})
        shards = int(told.get("shards", "0"))
        for shard in range(shards):
            with safe_open(shard_path(path, shard, shards), framework="pt"):
                pass
    except (SafetensorError, FileNotFoundError) as error:
        raise BrokenError(f"{path.name} is not a whole file: {error}") from error
    return told


def _checked(path: Path, told: Mapping[str, str]) -> dict[str, str]:
    """What a file says of itself, where it is of this format."""
    if told.get("format") != FORMAT:
        found = told.get("format", "none")
        raise InvalidError(
            "checkpoint", f"{path.name} is not of the format {FORMAT} but of {found}"
        )
    try:
        int(told.get("shards", "0"))
        for part in ("plan", "extra"):
            if not isinstance(json.loads(told.get(part, "{}")), dict):
                raise TypeError(f"{part} is no object")
    except (ValueError, TypeError) as error:
        raise BrokenError(f"{path.name} is not as it was written: {error}") from error
    return dict(told)


def kept_beside(path: Path) -> dict[str, str]:
    """What was kept beside the tensors; BrokenError as in `about`."""
    found: dict[str, str] = json.loads(about(path).get("extra", "{}"))
    return found


def extended(path: Path) -> bool:
    """Whether the seeds' stages are those of the extended lifecycle; BrokenError as in `about`."""
    return bool(json.loads(about(path).get("plan", "{}")).get("extended", True))


def shape_of(module: nn.Module) -> str:
    """A hash of the names, forms and types of the host's parameters; seeds are left out."""
    seeds = {
        id(p)
        for layer in module.modules()
        if isinstance(layer, SeededLayer)
        for p in (layer.down, layer.up)
    }
    lines = [
        f"{name.replace('.host.', '.')} {tuple(p.shape)} {p.dtype}"
        for name, p in module.named_parameters()
        if id(p) not in seeds
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise NotFoundError("checkpoint", str(path))
    try:
        with safe_open(path, framework="pt") as opened:
            about = _checked(path, opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dictionary
    except SafetensorError as error:
        raise BrokenError(f"{path.name} is not a whole file: {error}") from error
    if about.get("sum") not in (None, _sum(tensors)):
        raise BrokenError(f"{path.name} is not as it was written: its checksum is another one")
    return about, tensors


def _shards(path: Path, about: Mapping[str, str]) -> dict[str, list[Tensor]]:
    """The tensors of all shards, by name; none where there are no shards."""
    shards = int(about.get("shards", "0"))
    found: dict[str, list[Tensor]] = {}
    for shard in range(shards):
        for name, tensor in _read(shard_path(path, shard, shards))[1].items():
            found.setdefault(name, []).append(tensor)
    return found


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _weights(
    tensors: Mapping[str, Tensor], at: int, layer: SeededLayer
) -> tuple[Tensor, Tensor, Tensor]:
    found = [tensors.get(f"layer.{at}.{name}") for name in ("seeds", "down", "up")]
    seeds, down, up = found
    if seeds is None or down is None or up is None:
        raise InvalidError(f"layer.{at}", "is missing in the checkpoint")
    fits = down.shape == up.shape == (len(seeds), *layer.down.shape[1:])
    if not fits or bool(((seeds < 0) | (seeds >= layer.seeds)).any()):
        raise InvalidError(f"layer.{at}", "does not fit this model")
    return seeds, down, up


@torch.no_grad()
def _lay(parameter: Tensor, seeds: Tensor, rows: Tensor) -> None:
    """These rows at these places, and zeros everywhere else."""
    parameter.zero_()
    parameter[seeds.to(parameter.device)] = rows.to(parameter)
