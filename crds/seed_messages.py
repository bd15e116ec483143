"""What the pods of a SeedLayer and the operator tell each other.

The spec goes to the pods as a live setting, so that what may change while they run changes without a
restart. Each pod publishes a report when something has changed, and now and then when nothing has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SEED_PREFIX = "seedlayers/"
"""Where the live settings of SeedLayers stand."""
REPORT_SECONDS = 10.0
"""A pod reports at least this often."""
SILENT_SECONDS = 60.0
"""A pod that has not reported for so long counts as silent."""

STAGES = (
    "germinated",
    "training",
    "grafting",
    "stabilisation",
    "evaluating",
    "fineTuning",
    "fossilised",
    "culled",
    "cancelled",
    "rolledBack",
    "dormant",
)
"""The stages of a seed in the order in which they are shown."""
ADAPTING = frozenset(STAGES[:6])
"""Stages of seeds that are on their way."""


def seed_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds a SeedLayer's spec."""
    return f"{SEED_PREFIX}{namespace}/{name}"


def seeds_topic(namespace: str, name: str) -> str:
    """Where the pods of a SeedLayer publish their reports."""
    return f"seeds.{namespace}.{name}"


SEEDS_TOPICS = "seeds.>"
"""All of them."""


@dataclass(frozen=True, slots=True)
class SeedDecision:
    """What the controller of the seeds decided at the end of an epoch.

    Attributes:
        seed: index in its layer; -1 where the decision is about none in particular.
    """

    epoch: int
    action: str
    layer: str = ""
    seed: int = -1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SeedCheckpointed:
    """A checkpoint that a pod has written: Unix time, epochs that had ended, bytes."""

    at: float
    epoch: int
    size_bytes: int


Phase = Literal["Loading", "Serving", "Ending", "Failed"]
Activity = Literal["Training", "Resting", "Ended", "Waiting", "Off"]


@dataclass(frozen=True, slots=True)
class SeedReport:
    """All that the operator needs to know of one pod of a SeedLayer.

    Attributes:
        uid: of the SeedLayer; a report for another object of this name counts for nothing.
        at: Unix time, by the pod's clock.
        phase: `Failed` where the pod cannot serve until something changes; `message` says what.
        trains: whether this is the pod that trains.
        activity: what training does now; Waiting where it has no data, Off where no seeds are attached.
        stages: seeds by stage, of all layers.
        p50: seconds that half of the forward passes took at most, of those of the last minute; likewise
            `p95` and `p99`; None while there were none.
        throughput: examples served a second, of the last minute.
        memory_bytes: of the GPU where there is one, else of the process.
        gpu_utilisation: 0 to 1; None where there is no GPU.
        new_parameters: parameters of the seeds that act, as a share of the model's.
        errors: requests and training steps that failed, since the pod started.
    """

    namespace: str
    layer: str
    uid: str
    pod: str
    at: float
    phase: Phase
    reason: str = ""
    message: str = ""
    trains: bool = False
    activity: Activity = "Waiting"
    features: tuple[str, ...] = ()
    layers: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    accuracy: float | None = None
    base_accuracy: float | None = None
    new_parameters: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    throughput: float = 0.0
    memory_bytes: int = 0
    gpu_utilisation: float | None = None
    errors: int = 0
    decision: SeedDecision | None = None
    decisions: int = 0
    checkpoint: SeedCheckpointed | None = None

    @property
    def adapting(self) -> int:
        """Seeds that are on their way."""
        return sum(count for stage, count in self.stages.items() if stage in ADAPTING)


def in_one_line(stages: dict[str, int]) -> str:
    """Seeds by stage for people, such as `3 training/1021 dormant`."""
    return "/".join(f"{stages[stage]} {stage}" for stage in STAGES if stages.get(stage))
