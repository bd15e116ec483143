"""The parts of a SeedLayer that FeatureFlags switch on. Without its flag a part is off.

With everything off a SeedLayer is the plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import Field

from seedbed.crds.base import Model, Name

FEATURES: Mapping[str, str] = {
    "chunked_architecture": "Attaches the seeds; without it the pod serves the plain model.",
    "triton_kernels": "Computes with Triton on a GPU; without it, with torch.",
    "extended_lifecycle": "Puts stabilisation, evaluation and fine-tuning between a graft and its end.",
    "message_bus": "Streams the seeds' telemetry to the event log.",
    "neural_controller": "Lets a learnt policy decide where it has beaten the rules in replay.",
    "grafting_strategies": "Obeys `grafting.strategy`; without it every graft is linear.",
}
"""Each feature's name, and what it does."""
OVERRIDE = "MORPHOGENETIC_FEATURE_"
"""An environment variable of a pod overrides a flag: this, and the feature's name in capitals."""
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


class Features(Model):
    """Names of the FeatureFlags that the features obey. The subject is the SeedLayer's name."""

    chunked_architecture: Name = Field(
        default="chunked-architecture",
        description=FEATURES["chunked_architecture"],
        examples=["chunked-architecture"],
    )
    triton_kernels: Name = Field(
        default="triton-kernels",
        description=FEATURES["triton_kernels"],
        examples=["triton-kernels"],
    )
    extended_lifecycle: Name = Field(
        default="extended-lifecycle",
        description=FEATURES["extended_lifecycle"],
        examples=["extended-lifecycle"],
    )
    message_bus: Name = Field(
        default="message-bus", description=FEATURES["message_bus"], examples=["message-bus"]
    )
    neural_controller: Name = Field(
        default="neural-controller",
        description=FEATURES["neural_controller"],
        examples=["neural-controller"],
    )
    grafting_strategies: Name = Field(
        default="grafting-strategies",
        description=FEATURES["grafting_strategies"],
        examples=["grafting-strategies"],
    )


def active(
    features: Features, is_on: Callable[[str], bool], environment: Mapping[str, str]
) -> frozenset[str]:
    """The features that are on.

    Args:
        features: which flag each one obeys.
        is_on: whether a flag is on for this SeedLayer; False where there is none by that name.
        environment: whose variables `MORPHOGENETIC_FEATURE_<NAME>` override the flags.
    """
    found = set()
    for feature in FEATURES:
        said = environment.get(OVERRIDE + feature.upper(), "").strip().lower()
        if said in _TRUE or (said not in _FALSE and is_on(getattr(features, feature))):
            found.add(feature)
    return frozenset(found)
