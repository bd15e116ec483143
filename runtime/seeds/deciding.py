"""Who decides about the seeds of a pod: the rules, or a network where it has beaten them in replay.

With the feature neural_controller on, the pod explores at some boundaries and keeps a record of what came
of each germination. Once there are enough records a network learns from them, and decides from then on if
the replay speaks for it. Records live as long as the process.
"""

from __future__ import annotations

from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.learnt import (
    LEAST_RECORDS,
    Exploring,
    LayerNetwork,
    Recorder,
    Replay,
    chosen,
    fit,
)
from seedbed.runtime.seeds.policy import Policy
from seedbed.runtime.seeds.rules import Rules
from seedbed.runtime.seeds.state import SeedState
from seedbed.runtime.seeds.telemetry import Telemetry
from seedbed.runtime.seeds.wishes import limits

_FIT_EVERY = 10
"""Records between two fits."""


class Deciders:
    """Chooses the policy, and keeps what it learns from."""

    def __init__(self) -> None:
        self._recorder: Recorder | None = None
        self._network: LayerNetwork | None = None
        self._replay: Replay | None = None
        self._fitted = 0

    def policy(self, spec: SeedLayerSpec, features: Features) -> Policy:
        """The policy of the next boundary."""
        bounds = limits(spec)
        if not features.neural_controller:
            self._recorder = None
            return Rules(bounds)
        if self._network is not None and self._replay is not None and self._replay.better:
            return chosen(bounds, features, self._network, self._replay)
        exploring = Exploring(bounds, chance=spec.training.seed)
        if self._recorder is None:
            self._recorder = Recorder(exploring)
        else:
            self._recorder.policy = exploring
        return exploring

    def watch(self, telemetry: Telemetry, before: SeedState, after: SeedState) -> None:
        """A boundary is over; `before` is a copy of the state that was decided by. May take a second."""
        if self._recorder is None:
            return
        self._recorder.watch(telemetry, before, after)
        known = len(self._recorder.records)
        if known >= max(LEAST_RECORDS, self._fitted + _FIT_EVERY):
            self._fitted = known
            self._network, self._replay = fit(self._recorder.records)


def copied(state: SeedState) -> SeedState:
    """The state as it is now, on the CPU."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in state.tensors().items()}
    return SeedState(**tensors, table=state.table)
