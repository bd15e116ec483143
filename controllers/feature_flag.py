"""`FeatureFlag`: publishes its rule for everybody who evaluates it."""

from __future__ import annotations

from datetime import datetime

from seedbed.controllers.conditions import ready
from seedbed.controllers.objects import status
from seedbed.controllers.plan import Defaults, Observed, Plan, Withdraw
from seedbed.controllers.pool import publish
from seedbed.crds.feature_flag import FeatureFlagSpec
from seedbed.crds.messages import flag_setting


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:  # noqa: ARG001 -- one signature for all kinds
    """Decide what a FeatureFlag needs: its live setting and its status."""
    key = observed.key
    setting = flag_setting(key.namespace, key.name)
    if observed.object is None:
        return Plan(effects=(Withdraw(setting),) if setting in observed.settings else ())
    spec = FeatureFlagSpec.model_validate(observed.object.get("spec") or {})
    return Plan(
        effects=publish(setting, spec.model_dump_json(by_alias=True), observed),
        status=status(
            observed.object,
            ready("Published", "served to every evaluator"),
            now,
            state=_state(spec),
        ),
    )


def _state(spec: FeatureFlagSpec) -> str:
    if not spec.enabled or spec.rollout_percentage == 0:
        return "Off"
    if spec.rollout_percentage == 100:  # noqa: PLR2004 -- all of a hundred percent
        return "On"
    return f"{spec.rollout_percentage:g}%"
