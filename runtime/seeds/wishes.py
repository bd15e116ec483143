"""What a SeedLayer's user wants now: the spec and the flags as live settings, and what they mean here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from pydantic import ValidationError

from seedbed.crds.errors import RetryableError
from seedbed.crds.seed_features import active
from seedbed.crds.seed_layer import Blueprint, SeedLayerSpec
from seedbed.crds.seed_messages import seed_setting
from seedbed.crds.seed_policy import Grafting
from seedbed.runtime.api.flags import LiveFlags
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.seeds.attach import AttachSpec
from seedbed.runtime.seeds.blueprints import AnyGrowth, Growth
from seedbed.runtime.seeds.custom import Custom
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.grafting import GraftSettings
from seedbed.runtime.seeds.policy import Limits

_AGAIN = 1.0
_KINDS = {"lowRank": "low-rank", "mlp": "mlp", "norm": "norm"}
_log = logging.getLogger(__name__)


class Wishes:
    """The spec and the features of one SeedLayer, kept up to date.

    Attributes:
        spec: the newest one; None before the first.
        changed: set whenever the spec or a flag has changed; whoever waits clears it.
    """

    def __init__(
        self, coordinator: Coordinator, namespace: str, layer: str, environment: Mapping[str, str]
    ) -> None:
        self.spec: SeedLayerSpec | None = None
        self.changed = asyncio.Event()
        self._flags = LiveFlags()
        self._coordinator = coordinator
        self._namespace, self._layer = namespace, layer
        self._environment = environment

    @property
    def features(self) -> Features:
        """The features that are on now; none before the spec is known."""
        if self.spec is None:
            return Features()
        found = active(self.spec.features, self._on, self._environment)
        return Features(**dict.fromkeys(found, True))

    def _on(self, flag: str) -> bool:
        decided = self._flags.decide(self._namespace, flag, self._layer)
        return decided is not None and decided.value

    async def follow(self) -> None:
        """Keep up until cancelled; while the settings do not answer, everything stays as it was."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again_and_again(self._follow_flags))
            tasks.create_task(self._again_and_again(self._follow_spec))

    async def first(self) -> SeedLayerSpec:
        """The spec, as soon as it is known and the flags are."""
        while self.spec is None or not self._flags.loaded:
            self.changed.clear()
            await self.changed.wait()
        return self.spec

    async def _again_and_again(self, follow: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await follow()
            except RetryableError as error:
                _log.info("the live settings do not answer: %s", error)
            await asyncio.sleep(_AGAIN)

    async def _follow_flags(self) -> None:
        prefix = f"flags/{self._namespace}/"
        for key, value in (await self._coordinator.settings(prefix)).items():
            self._flags.set(key, value)
        self._flags.loaded = True
        self.changed.set()
        async with self._coordinator.watch(prefix) as changes:
            async for change in changes:
                self._flags.set(change.key, change.value)
                self.changed.set()

    async def _follow_spec(self) -> None:
        key = seed_setting(self._namespace, self._layer)
        async with self._coordinator.watch(key) as changes:
            async for change in changes:
                if change.key == key and change.value is not None:
                    self._take(change.value)

    def _take(self, value: bytes) -> None:
        try:
            self.spec = SeedLayerSpec.model_validate_json(value)
        except ValidationError as error:
            # An operator of another version: the pod goes on with what it knows.
            _log.error("the spec cannot be read: %s", error.errors()[0]["msg"])
        self.changed.set()


def growth(blueprint: Blueprint) -> AnyGrowth:
    """A blueprint of the spec; its name says type and rank, such as `low-rank-8`, or is the entry point."""
    if blueprint.entry is not None:
        return Custom(blueprint.entry, blueprint.entry, blueprint.arguments)
    kind = _KINDS[blueprint.type]
    name = kind if blueprint.type == "norm" else f"{kind}-{blueprint.rank}"
    return Growth(name, kind, blueprint.rank)


def attach_spec(spec: SeedLayerSpec) -> AttachSpec:
    """Where seeds go, and what may grow."""
    return AttachSpec(
        layers=spec.layers,
        seeds_per_layer=spec.seeds_per_layer,
        routing=spec.routing,
        reads=spec.reads,
        blueprints=tuple(map(growth, spec.blueprints)),
        grafting=graft_settings(spec.grafting),
        chance=spec.training.seed,
    )


def graft_settings(grafting: Grafting) -> GraftSettings:
    """The parameters of the strategies."""
    return GraftSettings(
        ramp_steps=grafting.steps,
        drift_pause=grafting.drift_pause,
        pause_steps=grafting.pause_steps,
        momentum=grafting.momentum,
        gradient_low=grafting.gradient_low,
        gradient_high=grafting.gradient_high,
    )


def limits(spec: SeedLayerSpec) -> Limits:
    """What the policy holds to."""
    policy, stages = spec.lifecycle, spec.lifecycle.stages
    return Limits(
        patience=policy.patience,
        delta=policy.min_improvement,
        accuracy_target=policy.accuracy_target,
        variance_weight=policy.weights.variance,
        dead_weight=policy.weights.dead,
        correlation_weight=policy.weights.correlation,
        max_active=policy.max_active_seeds,
        max_drop=policy.max_drop,
        max_drift=policy.drift_limit,
        max_failures=policy.max_failures,
        germination=stages.germination,
        training=stages.training,
        longest_training=stages.longest_training,
        stabilisation=stages.stabilisation,
        evaluation=stages.evaluation,
        fine_tuning=stages.fine_tuning,
        embargo=stages.embargo,
        blueprints=tuple(growth(each).name for each in spec.blueprints),
        strategy=spec.grafting.strategy,
    )
