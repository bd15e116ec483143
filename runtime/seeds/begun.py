"""What the newest checkpoint says of the spec and the features under which it was written."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.runtime.seeds import checkpoint
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.places import CheckpointPlace

SHAPE = ("layers", "seeds_per_layer", "blueprints")
"""Fields of the spec that give the state its shape, and may change."""
_log = logging.getLogger(__name__)


def as_begun(features: Features, place: CheckpointPlace) -> Features:
    """The features with the lifecycle under which the seeds' state began: its stages have to fit."""
    begun: list[bool] = []
    place.newest(lambda path: begun.append(checkpoint.extended(path)))
    if not begun or begun[-1] == features.extended_lifecycle:
        return features
    _log.warning("the checkpoint began with extended_lifecycle %s, which stays", begun[-1])
    return replace(features, extended_lifecycle=begun[-1])


def former_spec(spec: SeedLayerSpec, place: CheckpointPlace) -> SeedLayerSpec | None:
    """The spec with the shape under which the newest checkpoint was written; None where it says none."""
    found: list[str] = []
    place.newest(lambda path: found.append(checkpoint.kept_beside(path).get("shape", "")))
    if not found or not found[-1]:
        return None
    try:
        whole = {**spec.model_dump(mode="json", by_alias=True), **json.loads(found[-1])}
        return SeedLayerSpec.model_validate(whole)
    except (
        ValueError,
        TypeError,
    ) as error:  # written by another version, whose spec had other fields
        _log.warning("the shape in the checkpoint cannot be read: %s", error)
        return None
