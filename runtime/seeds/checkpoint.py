"""Saves everything that changes in a model with seeds to one safetensors file, and takes it back.

The file holds the state of all seeds, the weights of those that have any, Adam's moments, and the counts
of epochs. The frozen host is not in it, but what it looks like: a file of another host is refused. No
pickle is read or written. Restored tensors are the saved ones, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.seeds.layer import SeededLayer
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
    model.checkpoints += 1
    planted = model.state.core[:, Core.BLUEPRINT] > 0
    model.state.core[:, Core.CHECKPOINT] = torch.where(
        planted, model.checkpoints, model.state.core[:, Core.CHECKPOINT]
    )
    tensors = {f"state.{name}": tensor for name, tensor in model.state.tensors().items()}
    tensors |= {f"optimiser.{name}": held for name, held in model.optimiser.tensors().items()}
    tensors["progress.accuracies"] = torch.tensor(model.accuracies, dtype=torch.float64)
    tensors["progress.counts"] = torch.tensor([model.epoch, model.checkpoints])
    for at, (layer, span) in enumerate(model.placed()):
        seeds = planted[span.first : span.first + span.count].nonzero().flatten()
        tensors[f"layer.{at}.seeds"] = seeds
        for name, slab in (("down", layer.down.detach()), ("up", layer.up.detach())):
            tensors[f"layer.{at}.{name}"] = slab if len(seeds) == layer.seeds else slab[seeds]
    whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    about = {"format": FORMAT, "plan": json.dumps(plan(model)), "extra": json.dumps(dict(extra))}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(whole, beside, about)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(model: SeededModel, path: Path) -> dict[str, str]:
    """Take a file's state over. Where this raises, the model is as it was.

    Raises:
        NotFoundError: there is no such file.
        InvalidError: it is no checkpoint, a broken one, or one of another model or specification.
    """
    about, tensors = _read(path)
    if about.get("format") != FORMAT:
        raise InvalidError("checkpoint", f"{path.name} is not of the format {FORMAT}")
    if json.loads(about["plan"]) != plan(model):
        raise InvalidError(
            "checkpoint", f"{path.name} is of another model or another specification of its seeds"
        )
    counts = tensors["progress.counts"].tolist()
    weights = [_weights(tensors, at, layer) for at, layer in enumerate(model.layers)]
    model.state.restore(_part(tensors, "state."))
    model.optimiser.restore(_part(tensors, "optimiser."))
    for layer, (seeds, down, up) in zip(model.layers, weights, strict=True):
        _lay(layer.down, seeds, down)
        _lay(layer.up, seeds, up)
    model.epoch, model.checkpoints = counts
    model.accuracies = tuple(tensors["progress.accuracies"].tolist())
    model.refresh()
    extra: dict[str, str] = json.loads(about["extra"])
    return extra


def plan(model: SeededModel) -> dict[str, object]:
    """What a checkpoint has to fit: the host's form, the layers and the blueprints."""
    return {
        "host": model.form,
        "layers": [
            [layer.name, layer.seeds, layer.routing, layer.reads, *layer.down.shape]
            for layer in model.layers
        ],
        "blueprints": [[each.name, each.kind, each.rank] for each in model.blueprints],
        "extended": model.features.extended_lifecycle,
    }


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
            about = opened.metadata() or {}
            return about, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dictionary
    except SafetensorError as error:
        raise InvalidError("checkpoint", f"{path.name} is not a whole file: {error}") from error


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
