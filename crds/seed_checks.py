"""What a SeedLayer must meet beyond its schema."""

from __future__ import annotations

from collections.abc import Iterator

from seedbed.crds.base import seconds
from seedbed.crds.errors import InvalidError
from seedbed.crds.seed_layer import SeedLayerSpec

LONGEST_DRAIN = 120.0
"""Seconds between a spot node's notice and its end."""


def check_seed_layer(spec: SeedLayerSpec) -> list[InvalidError]:
    """Everything that is wrong with a spec."""
    return [*_sources(spec), *_lists(spec), *_times(spec), *_pods(spec)]


def _sources(spec: SeedLayerSpec) -> Iterator[InvalidError]:
    model, data, kept = spec.model, spec.data, spec.checkpoint
    if (model.entry is None) == (model.folder is None):
        yield InvalidError("spec.model", "a model has exactly one of entry and folder")
    elif model.entry is None and (model.weights is not None or model.arguments):
        yield InvalidError("spec.model", "weights and arguments belong to an entry")
    if data is not None:
        if (data.entry is None) == (data.url is None):
            yield InvalidError("spec.data", "data have exactly one of entry and url")
        elif data.entry is None and data.arguments:
            yield InvalidError("spec.data.arguments", "belong to an entry")
    if sum(place is not None for place in (kept.volume, kept.claim, kept.url)) > 1:
        expected = "checkpoints stand in at most one of volume, claim and url"
        yield InvalidError("spec.checkpoint", expected)


def _lists(spec: SeedLayerSpec) -> Iterator[InvalidError]:
    for at, pattern in enumerate(spec.layers):
        if pattern in spec.layers[:at]:
            yield InvalidError(f"spec.layers[{at}]", f"`{pattern}` stands there twice")
        if pattern.count("[") != pattern.count("]"):
            yield InvalidError(f"spec.layers[{at}]", f"`{pattern}` has a bracket without its pair")
    for at, blueprint in enumerate(spec.blueprints):
        named = blueprint.entry is not None
        before = spec.blueprints[:at]
        if blueprint in before or (named and blueprint.entry in [each.entry for each in before]):
            yield InvalidError(f"spec.blueprints[{at}]", "stands there twice")
        if named != (blueprint.type == "custom"):
            yield InvalidError(f"spec.blueprints[{at}].entry", "belongs to the type custom")
        elif blueprint.arguments and not named:
            yield InvalidError(f"spec.blueprints[{at}].arguments", "belong to an entry")
    if spec.reads == "input" and spec.routing == "chunk":
        yield InvalidError("spec.reads", "reading the input needs the routing token")
    stages = spec.lifecycle.stages
    if stages.training > stages.longest_training:
        expected = "must be at most longestTraining"
        yield InvalidError("spec.lifecycle.stages.training", expected)
    weights = spec.lifecycle.weights
    if weights.variance + weights.dead + weights.correlation == 0:
        yield InvalidError("spec.lifecycle.weights", "at least one must be more than 0")
    if spec.grafting.gradient_low >= spec.grafting.gradient_high:
        yield InvalidError("spec.grafting.gradientLow", "must be less than gradientHigh")


def _times(spec: SeedLayerSpec) -> Iterator[InvalidError]:
    if not 0 < seconds(spec.drain) <= LONGEST_DRAIN:
        yield InvalidError("spec.drain", "must be longer than 0s and at most 2m")
    if seconds(spec.checkpoint.interval) <= 0:
        yield InvalidError("spec.checkpoint.interval", "must be longer than 0s")


def _pods(spec: SeedLayerSpec) -> Iterator[InvalidError]:
    kept = spec.checkpoint
    if spec.replicas > 1 and kept.claim is None and kept.url is None:
        expected = (
            "several pods share their checkpoints: replicas above 1 need checkpoint.claim or "
            "checkpoint.url"
        )
        yield InvalidError("spec.replicas", expected)
    together = spec.distribution
    if together is not None:
        if spec.data is None:
            yield InvalidError("spec.distribution", "pods that train together need spec.data")
        if spec.gpus and together.processes_per_pod > spec.gpus:
            expected = "each process needs a GPU: at most spec.gpus"
            yield InvalidError("spec.distribution.processesPerPod", expected)
        if 0 < spec.replicas < together.least_pods:
            expected = "must be at most spec.replicas"
            yield InvalidError("spec.distribution.leastPods", expected)
    if spec.gpus and spec.template.resource_claims:
        expected = "devices come from gpus or from template.resourceClaims, not from both"
        yield InvalidError("spec.gpus", expected)
