"""Attaches seeds to the layers of a torch model that match a pattern, and freezes the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from seedbed.crds.errors import InvalidError
from seedbed.kernels import prepare
from seedbed.runtime.seeds.blueprints import AnyGrowth, Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.grafting import DEFAULTS, GraftSettings
from seedbed.runtime.seeds.group import Alone
from seedbed.runtime.seeds.layer import (
    Reads,
    Routing,
    SeededLayer,
    column_pairs,
    slab_width,
)
from seedbed.runtime.seeds.model import SeededModel


@dataclass(frozen=True, slots=True)
class AttachSpec:
    """Where seeds go and what may grow from them.

    Attributes:
        layers: patterns of layer names as `*.mlp`; see `fnmatch`.
        seeds_per_layer: how many each gets.
        routing: `chunk`: the columns are cut into as many parts as there are seeds. `token`: each token
            or sequence names its seed.
        reads: whether seeds read the layer's output, or its input as LoRA does.
        blueprints: what may grow.
        grafting: parameters of the blending strategies.
        chance: every random number comes from this one.
    """

    layers: tuple[str, ...]
    seeds_per_layer: int = 1024
    routing: Routing = "chunk"
    reads: Reads = "output"
    blueprints: tuple[AnyGrowth, ...] = (Growth("low-rank"),)
    grafting: GraftSettings = DEFAULTS
    chance: int = 0


def attach(
    module: nn.Module,
    spec: AttachSpec,
    features: Features | None = None,
    *,
    example: tuple[torch.Tensor, ...] | None = None,
    group: Alone | None = None,
) -> SeededModel:
    """The model with seeds on the layers that match.

    The model is changed in place: its parameters are frozen, and each matching layer is wrapped. It should
    be on its device already. On a CPU the seeds' loops are compiled now, which takes seconds the first time.

    Args:
        module: the model.
        spec: see AttachSpec.
        features: everything off, the default, attaches nothing.
        example: inputs of the model, needed where the width of a layer cannot be read off it.
        group: the processes that train the model together, where there are several.

    Raises:
        InvalidError: a pattern matches no layer, or a layer's width is not known.
        BlueprintError: a user's blueprint is none.
    """
    switches = features or Features()
    module.requires_grad_(requires_grad=False)
    if not switches.chunked_architecture:
        return SeededModel(module, (), spec.blueprints, switches, spec.grafting, spec.chance)
    names = matching(module, spec.layers)
    observed = _observed(module, names, example) if example is not None else {}
    layers = []
    for name in names:
        host = module.get_submodule(name)
        columns = observed.get(name) or _declared(name, host)
        rows = _rows(spec, columns)
        layer = SeededLayer(
            name, host, spec.seeds_per_layer, rows, columns, spec.routing, spec.reads, group
        )
        layer.train(host.training)
        module.set_submodule(name, layer)
        layers.append(layer)
    if any(layer.down.is_cpu for layer in layers):
        prepare()
    return SeededModel(
        module, tuple(layers), spec.blueprints, switches, spec.grafting, spec.chance, group
    )


def _rows(spec: AttachSpec, columns: tuple[int, int]) -> int:
    """Rows of the slabs that every blueprint has room in; where one is a user's, it is tried out."""
    width = slab_width(columns, spec.seeds_per_layer, spec.routing, spec.reads)
    pairs = column_pairs(columns, spec.seeds_per_layer, spec.routing, spec.reads)
    return max(growth.rows(width, pair) for growth in spec.blueprints for pair in pairs)


def matching(module: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the layers that carry seeds, in the model's order; of nested ones the outermost.

    Raises:
        InvalidError: a pattern matches nothing.
    """
    names = [name for name, _ in module.named_modules() if name]
    for at, pattern in enumerate(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidError(f"layers[{at}]", f"{pattern!r} matches no layer of the model")
    chosen: list[str] = []
    for name in names:
        inside = any(name.startswith(f"{outer}.") for outer in chosen)
        if not inside and any(fnmatchcase(name, pattern) for pattern in patterns):
            chosen.append(name)
    return chosen


def _declared(name: str, host: nn.Module) -> tuple[int, int]:
    """Columns of input and output, where the layer tells them."""
    if isinstance(host, nn.Linear):
        return host.in_features, host.out_features
    if isinstance(host, nn.LayerNorm):
        return host.normalized_shape[-1], host.normalized_shape[-1]
    if isinstance(host, nn.Embedding):
        return 1, host.embedding_dim
    linear = [each for each in host.modules() if isinstance(each, nn.Linear)]
    if isinstance(host, nn.Sequential) and linear:
        return linear[0].in_features, linear[-1].out_features
    raise InvalidError(
        "layers", f"the width of {name!r} is not known from the layer; give an example input"
    )


def _observed(
    module: nn.Module, names: list[str], example: tuple[torch.Tensor, ...]
) -> dict[str, tuple[int, int]]:
    """Columns of input and output, seen while the example runs through."""
    found: dict[str, tuple[int, int]] = {}

    def watch(name: str) -> object:
        def see(_: nn.Module, args: tuple[torch.Tensor, ...], out: object) -> None:
            first = out[0] if isinstance(out, tuple) else out
            if isinstance(first, torch.Tensor):
                given = args[0].shape[-1] if args and args[0].is_floating_point() else 1
                found[name] = (given, first.shape[-1])

        return module.get_submodule(name).register_forward_hook(see)

    hooks = [watch(name) for name in names]
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for hook in hooks:
            hook.remove()  # type: ignore[attr-defined]  # what torch returns is not exported
    return found
