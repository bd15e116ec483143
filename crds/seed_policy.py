"""How the seeds of a SeedLayer live: when they germinate, how they blend in, when they are given up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from seedbed.crds.base import Duration, Model

GraftingStrategy = Literal["linear", "drift", "momentum", "adaptive", "stability"]


class HealthWeights(Model):
    """How much each part of a seed's health counts where the next seed is chosen."""

    variance: float = Field(
        default=0.6, description="Of its chunk's variance.", ge=0, le=1, examples=[0.6]
    )
    dead: float = Field(
        default=0.3, description="Of its share of dead outputs.", ge=0, le=1, examples=[0.3]
    )
    correlation: float = Field(
        default=0.1, description="Of the correlation of its outputs.", ge=0, le=1, examples=[0.1]
    )


class StageEpochs(Model):
    """How many epochs a seed spends in a stage, at least where nothing else is said."""

    germination: int = Field(
        default=1, description="Before a germinated seed learns.", ge=0, le=10_000, examples=[1]
    )
    training: int = Field(
        default=3, description="Before a seed may be grafted.", ge=1, le=10_000, examples=[3]
    )
    longest_training: int = Field(
        default=10,
        description="After which a seed without gain is culled.",
        ge=1,
        le=10_000,
        examples=[10],
    )
    stabilisation: int = Field(
        default=1,
        description="In which a seed that is blended in stands still.",
        ge=0,
        le=10_000,
        examples=[1],
    )
    evaluation: int = Field(
        default=1, description="Over which a seed is judged.", ge=1, le=10_000, examples=[1]
    )
    fine_tuning: int = Field(
        default=2,
        description="Of learning before a seed fossilises.",
        ge=0,
        le=10_000,
        examples=[2],
    )
    embargo: int = Field(
        default=3,
        description="That a slot rests after a failed try.",
        ge=0,
        le=10_000,
        examples=[3],
    )


class LifecyclePolicy(Model):
    """What the controller of the seeds may do, and when. It decides at the end of an epoch only."""

    patience: int = Field(
        default=5,
        description="Epochs without progress after which seeds germinate.",
        ge=1,
        le=1000,
        examples=[5],
    )
    min_improvement: float = Field(
        default=0.001, description="Accuracy that counts as progress.", ge=0, le=1, examples=[0.001]
    )
    accuracy_target: float = Field(
        default=0.95,
        description="Accuracy from which on no further seed germinates.",
        ge=0,
        le=1,
        examples=[0.95],
    )
    weights: HealthWeights = Field(
        default_factory=HealthWeights,
        description="How the seed that germinates is chosen.",
        examples=[{"variance": 0.6, "dead": 0.3, "correlation": 0.1}],
    )
    max_active_seeds: int = Field(
        default=1,
        description="Seeds of the whole model that may be between germinated and fossilised.",
        ge=1,
        le=100_000,
        examples=[4],
    )
    max_drop: float = Field(
        default=0.05,
        description="Loss of accuracy by which a seed is rolled back.",
        ge=0.0001,
        le=1,
        examples=[0.05],
    )
    max_failures: int = Field(
        default=3,
        description="Tries that failed after which a slot is left alone.",
        ge=1,
        le=100,
        examples=[3],
    )
    drift_limit: float = Field(
        default=0.15,
        description="Change of a seed's effect from one epoch to the next by which it is rolled back.",
        ge=0.0001,
        le=1,
        examples=[0.15],
    )
    stages: StageEpochs = Field(
        default_factory=StageEpochs,
        description="How many epochs seeds spend in their stages.",
        examples=[{"training": 3, "longestTraining": 10}],
    )


class Grafting(Model):
    """How a trained seed's share of its layer's output grows from nothing to all of it."""

    strategy: GraftingStrategy = Field(
        default="linear",
        description=(
            "`linear` grows by the same share each step; `drift` waits while the layer's output drifts; "
            "`momentum` builds its rate up; `adaptive` follows what the seed brings; `stability` stands "
            "while the seed's gradient is too small or too large."
        ),
        examples=["drift"],
    )
    steps: int = Field(
        default=30,
        description="Training steps that a graft takes where nothing holds it up.",
        ge=1,
        le=100_000,
        examples=[30],
    )
    drift_pause: float = Field(
        default=0.12,
        description="Drift above which the strategy `drift` waits.",
        ge=0.0001,
        le=1,
        examples=[0.12],
    )
    pause_steps: int = Field(
        default=10, description="Steps that it waits then.", ge=1, le=10_000, examples=[10]
    )
    momentum: float = Field(
        default=0.1,
        description="Share of the way to the full rate that `momentum` makes each step.",
        ge=0.0001,
        le=1,
        examples=[0.1],
    )
    gradient_low: float = Field(
        default=0.1,
        description="Least norm of the gradient with which `stability` goes on.",
        ge=0,
        le=1_000_000,
        examples=[0.1],
    )
    gradient_high: float = Field(
        default=1.0,
        description="Greatest one.",
        ge=0.000001,
        le=1_000_000,
        examples=[1.0],
    )


class Training(Model):
    """How the pod trains its seeds; the model itself stays as it is."""

    epochs: int = Field(
        default=0,
        description="Epochs after which training ends; 0 goes on for ever.",
        ge=0,
        le=1_000_000,
        examples=[60],
    )
    batch_size: int = Field(
        default=32, description="Examples in a step.", ge=1, le=65_536, examples=[64]
    )
    learning_rate: float = Field(
        default=0.01,
        description="Of Adam, for seeds in training.",
        ge=0.0000001,
        le=10,
        examples=[0.003],
    )
    fine_learning_rate: float = Field(
        default=0.001,
        description="The same while a seed is fine-tuned.",
        ge=0.0000001,
        le=10,
        examples=[0.0003],
    )
    interval: Duration = Field(
        default="0s",
        description="Rest between two epochs, for a device that serves as well.",
        examples=["1s"],
    )
    seed: int = Field(
        default=0,
        description="Of everything that is drawn at random, so that a training can be repeated.",
        ge=0,
        le=2_147_483_647,
        examples=[7],
    )
