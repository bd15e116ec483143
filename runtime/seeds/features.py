"""The switches of the seed layer. Everything off, as they come, gives the plain model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Features:
    """Which parts are on; filled from FeatureFlag objects of the same names.

    Attributes:
        chunked_architecture: layers carry seeds at all. Off: nothing is attached, the model is the host.
        triton_kernels: seeds run by the Triton kernels where a GPU is there. Off: by plain torch.
        extended_lifecycle: stabilisation, evaluation and fine-tuning stand between graft and fossil.
        message_bus: telemetry and decisions are published on the bus.
        neural_controller: the learnt policy may decide, where it beat the rules in replay.
        grafting_strategies: all strategies. Off: only the linear ramp.
    """

    chunked_architecture: bool = False
    triton_kernels: bool = False
    extended_lifecycle: bool = False
    message_bus: bool = False
    neural_controller: bool = False
    grafting_strategies: bool = False

    @classmethod
    def all_on(cls) -> Features:
        """Everything."""
        return cls(*[True] * 6)
