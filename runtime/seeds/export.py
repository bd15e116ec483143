"""Writes fossils that grew from users' blueprints as weights of their own modules.

Each becomes one safetensors file with the names of the module's own state: it can be loaded into what the
entry point gives, without Seedbed. Fossils of low rank become adapters of peft, see `peft`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from seedbed.runtime.seeds.custom import Custom
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core

if TYPE_CHECKING:
    from seedbed.runtime.seeds.model import SeededModel


def fossils(model: SeededModel, folder: Path) -> tuple[Path, ...]:
    """Write `LAYER.SLOT.safetensors` for each fossil of a user's blueprint; gives the files.

    The metadata say the entry point, and how many columns the seed reads and writes.

    Args:
        model: of its sharded seeds only those here are written.
        folder: to write to; made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for layer, span in model.placed():
        for row, slot in enumerate(layer.held):
            core = model.state.core[span.first + slot].tolist()
            if core[Core.STAGE] != Stage.FOSSILISED:
                continue
            growth = model.blueprints[core[Core.BLUEPRINT] - 1]
            if not isinstance(growth, Custom):
                continue
            given, made = pair = layer.pair(slot)
            slabs = (slab.detach()[row : row + 1] for slab in (layer.down, layer.up))
            weights = growth.form(pair).unpacked(*slabs)
            about = {"entry": growth.entry, "given": str(given), "made": str(made)}
            path = folder / f"{layer.name}.{slot}.safetensors"
            save_file(
                {name: each[0].cpu().contiguous() for name, each in weights.items()}, path, about
            )
            found.append(path)
    return tuple(found)
