"""LoRA adapters of the package peft as seeds, and fossils as such adapters.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`. It takes one slot of every
layer that it adapts; whoever routes a token to that slot gets that adapter. The layers must read their
input and be routed by token, because that is what LoRA is: y + scale * B A x.

Only what this can express is taken: no DoRA, no trained biases, no whole modules. No pickle is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.kernels.blueprints import Blueprint
from seedbed.runtime.seeds.layer import SeededLayer
from seedbed.runtime.seeds.stages import EXTENDED, Stage
from seedbed.runtime.seeds.state import STAY, Core

if TYPE_CHECKING:
    from seedbed.runtime.seeds.model import SeededModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_REFUSED = {
    "use_dora": False, "bias": "none", "modules_to_save": None, "lora_bias": False, "use_qalora": False,
    "alora_invocation_tokens": None, "trainable_token_indices": None, "layer_replication": None,
    "target_parameters": None, "arrow_config": None, "use_bdlora": None, "kasa_config": None,
}  # fmt: skip
"""Settings under which an adapter is more than B A x, or not on every token; each must have this value."""
_CHANGES_HOST = re.compile(r"(pissa|olora|corda|loftq|lora_ga)")
"""Ways to begin, after which the adapter belongs to another host than the one it is loaded into."""
_WAY = (Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING)
_END = (Stage.STABILISATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILISED)


def load(model: SeededModel, folder: Path, slot: int) -> tuple[str, ...]:
    """Take an adapter into a sleeping slot, as a fossil: it is trained already and acts at once.

    Args:
        model: its layers read their input, by token.
        folder: of the adapter.
        slot: number of the seed, the same in each layer.

    Returns:
        Names of the layers that the adapter adapts.

    Raises:
        NotFoundError: a file is missing.
        InvalidError: the adapter cannot be expressed, or does not fit the model; nothing is changed then.
    """
    config, weights = _read(folder)
    halves = _halves(weights)
    layers = {layer.name: layer for layer in model.layers}
    if unknown := sorted(set(halves) - set(layers)):
        raise InvalidError("adapter", f"adapts {unknown[0]!r}, which carries no seeds here")
    fitted = {
        name: _fitted(layers[name], pair, _scale(config, name, pair["A"].shape[0]))
        for name, pair in halves.items()
    }
    ranks = [pair["A"].shape[0] for pair in halves.values()]
    blueprint = _blueprint(model, max(ranks))
    _walk(model, [name for name in layers if name in fitted], slot, blueprint)
    with torch.no_grad():
        for name, (down, up) in fitted.items():
            layers[name].down[slot] = down
            layers[name].up[slot] = up
    model.refresh()
    return tuple(name for name in layers if name in fitted)


def save(model: SeededModel, folder: Path, slot: int, base: str = "") -> tuple[str, ...]:
    """Write the fossils of a slot as an adapter.

    Args:
        model: its layers read their input, by token.
        folder: to write to; made where it is missing.
        slot: number of the seed in each layer.
        base: name of the host, for the adapter's configuration.

    Returns:
        Names of the layers in the adapter.

    Raises:
        InvalidError: no layer has such a fossil.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for layer, span in model.placed():
        if not 0 <= slot < span.count:
            raise InvalidError("slot", f"expected 0 to {span.count - 1} in layer {layer.name!r}")
        kind = int(model.state.core[span.first + slot, Core.BLUEPRINT])
        fossil = int(model.state.stage[span.first + slot]) == Stage.FOSSILISED
        if not fossil or model.blueprints[kind - 1].blueprint is not Blueprint.LOW_RANK:
            continue
        _readable(layer)
        given, rank = layer.columns[0], model.blueprints[kind - 1].rank
        key = f"base_model.model.{layer.name}"
        ranks[layer.name] = rank
        down, up = layer.down.detach()[slot, :rank], layer.up.detach()[slot, :rank]
        tensors[f"{key}.lora_A.weight"] = down[:, :given].contiguous().cpu()
        tensors[f"{key}.lora_B.weight"] = up[:, given:].T.contiguous().cpu()
    if not tensors:
        raise InvalidError("slot", f"{slot} holds no low-rank fossil")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(_config(ranks, base), indent=2) + "\n")
    return tuple(ranks)


def _config(ranks: Mapping[str, int], base: str) -> dict[str, Any]:
    greatest = max(ranks.values())
    # Patterns of peft match the end of a name: "2" would be meant for "body.2" as well.
    others = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != greatest}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base or None,
        "target_modules": sorted(ranks),
        "r": greatest,
        "lora_alpha": greatest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise NotFoundError("file of an adapter", str(folder / name))
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (ValueError, OSError, SafetensorError) as error:
        raise InvalidError("adapter", f"{folder.name} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InvalidError("adapter", f"{folder.name} is no LoRA adapter")
    for name, value in _REFUSED.items():
        if config.get(name, value) not in (value, []):
            raise InvalidError(f"adapter.{name}", f"expected {value!r}, not {config[name]!r}")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and _CHANGES_HOST.match(begun):
        expected = "expected one that was converted to a plain LoRA, as peft's save_pretrained does"
        raise InvalidError("adapter.init_lora_weights", f"{begun!r} changes the host: {expected}")
    return config, weights


def _halves(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A and B of each layer."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidError("adapter", f"holds {key}, which is no part of a LoRA")
        found.setdefault(match[1], {})[match[2]] = tensor
    for name, pair in found.items():
        flat = any(half.dim() != 2 or not half.numel() for half in pair.values())  # noqa: PLR2004
        if set(pair) != {"A", "B"} or flat or pair["A"].shape[0] != pair["B"].shape[1]:
            raise InvalidError("adapter", f"A and B of {name!r} do not fit together")
        if not all(bool(half.isfinite().all()) for half in pair.values()):
            raise InvalidError("adapter", f"A and B of {name!r}: expected finite numbers")
    if not found:
        raise InvalidError("adapter", "is empty")
    return found


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """What peft multiplies B A with in this layer."""
    try:
        alpha = float(config.get("lora_alpha") or rank)
        for pattern, own in (config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", name):
                alpha = float(own)
                break
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise InvalidError("adapter.lora_alpha", f"expected numbers, by layer: {error}") from error
    if not math.isfinite(alpha):
        raise InvalidError("adapter.lora_alpha", f"expected a finite number, not {alpha}")
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _readable(layer: SeededLayer) -> None:
    if layer.routing != "token" or layer.reads != "input":
        raise InvalidError("reads", f"layer {layer.name!r} must read its input, routed by token")


def _fitted(layer: SeededLayer, pair: Mapping[str, Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """The adapter's halves in a slab of the layer: A reads the left part, B writes the right one."""
    _readable(layer)
    (given, made), rows = layer.columns, layer.down.shape[1]
    a, b = pair["A"], pair["B"]
    rank = a.shape[0]
    if a.shape != (rank, given) or b.shape != (made, rank):
        raise InvalidError(
            "adapter", f"{layer.name!r} maps {given} to {made}, not {a.shape[-1]} to {b.shape[0]}"
        )
    if rank > rows:
        raise InvalidError("adapter", f"has rank {rank}, the seeds of {layer.name!r} only {rows}")
    down, up = torch.zeros(rows, given + made), torch.zeros(rows, given + made)
    down[:rank, :given] = a.float()
    up[:rank, given:] = b.float().T * scale
    return down.to(layer.down), up.to(layer.up)


def _blueprint(model: SeededModel, rank: int) -> int:
    """The narrowest low-rank blueprint that holds the adapter, counted from 1."""
    fitting = [
        (growth.rank, at)
        for at, growth in enumerate(model.blueprints, start=1)
        if growth.blueprint is Blueprint.LOW_RANK and growth.rank >= rank
    ]
    if not fitting:
        raise InvalidError("adapter", f"needs a low-rank blueprint of at least {rank}")
    return min(fitting)[1]


def _walk(model: SeededModel, names: list[str], slot: int, blueprint: int) -> None:
    """Lead the slot of these layers from sleep to fossil, by the table."""
    seeds = torch.zeros(len(model.state), dtype=torch.bool)
    for layer, span in model.placed():
        if layer.name in names:
            if not 0 <= slot < span.count:
                raise InvalidError("slot", f"expected 0 to {span.count - 1}")
            seeds[span.first + slot] = True
    seeds = seeds.to(model.device)
    if not bool((model.state.stage[seeds] == Stage.DORMANT).all()):
        raise InvalidError("slot", f"{slot} is taken")
    end = _END if model.state.table is EXTENDED else _END[-1:]
    for stage in (*_WAY, *end):
        model.state.move(torch.where(seeds, int(stage), STAY), model.epoch)
    model.state.plant(seeds, blueprint, 0)
