"""The reference model of the published figures: 12 layers of 768, with seeds on each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.baseline import Baseline
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft

LAYERS, HIDDEN = 12, 768


def host(layers: int = LAYERS, hidden: int = HIDDEN) -> nn.Sequential:
    """The plain model; the same numbers each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(hidden, hidden), nn.GELU()) for _ in range(layers)]
        return nn.Sequential(*blocks).eval()


def sample(batch: int) -> tuple[Tensor, ...]:
    """Inputs of the reference model."""
    return (torch.randn(batch, HIDDEN, generator=torch.Generator().manual_seed(batch)),)


def seeded(
    seeds: int, device: torch.device, *, acting: float = 1.0, module: nn.Module | None = None
) -> SeededModel:
    """The reference model, or another one, with fossils in a share of its slots.

    Args:
        seeds: on each of the model's outermost layers.
        device: where to run.
        acting: share of the slots that hold a fossil.
        module: instead of the reference model; its direct children must be told by their width.
    """
    carrier = (module or host()).to(device)
    names = tuple(name for name, _ in carrier.named_children())
    spec = AttachSpec(names, seeds_per_layer=seeds, blueprints=(Growth("low-rank", rank=8),))
    model = attach(carrier, spec, Features.all_on())
    chosen = torch.arange(len(model.state), device=device) < acting * len(model.state)
    model.state.core[:, Core.STAGE] = torch.where(chosen, Stage.FOSSILISED, Stage.DORMANT).int()
    model.state.core[:, Core.BLUEPRINT] = chosen.int()
    model.state.graft[:, Graft.ALPHA] = chosen.float()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.layers:
            for slab in (layer.down, layer.up):
                slab.copy_(torch.randn(slab.shape, generator=generator) * 0.02)
    model.refresh()
    return model


def with_seeds(found: Baseline, model: SeededModel, epoch_seconds: float = 0.0) -> Baseline:
    """A baseline with what its seeds have lived.

    Args:
        found: what was measured.
        model: the model that was measured.
        epoch_seconds: how long an epoch takes, for the length of a life.
    """
    per_layer = max((span.count for span in model.spans), default=0)
    fossils = model.state.counts()[Stage.FOSSILISED]
    failures = int(model.state.core[:, Core.FAILURES].sum())
    tries = fossils + failures
    seeds: dict[str, float | None] = {
        "seeds_per_layer": float(per_layer),
        "adaptation_success_rate": fossils / tries if tries else None,
        "seed_lifecycle_seconds": _life_epochs(model) * epoch_seconds if epoch_seconds else None,
    }
    return Baseline(found.name, found.device, found.batches, seeds, found.machine)


def _life_epochs(model: SeededModel) -> float:
    """Mean epochs from germination to fossil."""
    lives = []
    for seed in model.state.at(Stage.FOSSILISED).nonzero().flatten().tolist():
        told = {target: epoch for epoch, _, target in reversed(model.state.history(seed))}
        if Stage.GERMINATED in told:
            lives.append(told[Stage.FOSSILISED] - told[Stage.GERMINATED])
    return sum(lives) / len(lives) if lives else 0.0
