"""What an epoch tells about the seeds: the only thing a policy decides by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.seeds.state import SeedState


@dataclass(frozen=True, slots=True)
class LayerSpan:
    """Where a layer's seeds stand among all.

    Attributes:
        name: the layer's name in the model, such as `encoder.0.mlp`.
        first: number of its first seed.
        count: how many seeds it carries.
    """

    name: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One epoch of a model with seeds.

    Attributes:
        epoch: number of epochs behind us, from 1.
        loss: mean training loss of the epoch.
        accuracies: accuracy on the held-out data after each epoch so far, oldest first, 0 to 1; the last
            one is of this epoch, as the model answers now.
        metrics: float32 (seeds x 4) on the CPU, see `state.Metric`; NaN where a seed saw no data.
        layers: the layers in the model's order.
        seconds: how long the epoch took.
        samples: samples seen in it.
    """

    epoch: int
    loss: float
    accuracies: tuple[float, ...]
    metrics: Tensor
    layers: tuple[LayerSpan, ...]
    seconds: float = 0.0
    samples: int = 0

    @property
    def accuracy(self) -> float:
        """The accuracy now; 0 before anything was measured."""
        return self.accuracies[-1] if self.accuracies else 0.0


def place(layers: Sequence[LayerSpan], seed: int) -> tuple[str, int]:
    """The layer of a seed, and the seed's number in it."""
    for layer in layers:
        if layer.first <= seed < layer.first + layer.count:
            return layer.name, seed - layer.first
    raise NotFoundError("seed", str(seed))


def number(layers: Sequence[LayerSpan], name: str, seed: int) -> int:
    """The number over all layers of a layer's seed."""
    for layer in layers:
        if layer.name == name:
            if not 0 <= seed < layer.count:
                raise InvalidError("seed", f"expected 0 to {layer.count - 1} in layer {name!r}")
            return layer.first + seed
    raise NotFoundError("layer", name)


def summary(telemetry: Telemetry, state: SeedState) -> dict[str, object]:
    """The epoch in a few numbers, for logs, the bus and the object's status. Waits for the device."""
    return {
        "epoch": telemetry.epoch,
        "loss": telemetry.loss,
        "accuracy": telemetry.accuracy,
        "seconds": telemetry.seconds,
        "samples": telemetry.samples,
        "seeds": {stage.label: count for stage, count in state.counts().items() if count},
    }
