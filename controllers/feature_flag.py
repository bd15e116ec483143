"""FeatureFlag: its spec published to all who evaluate it."""

from __future__ import annotations

from datetime import datetime

from seedbed.controllers.conditions import ready
from seedbed.controllers.plan import Defaults, Observed, Plan
from seedbed.controllers.reading import publish, read_spec, refused, told, withdraw
from seedbed.crds.addresses import flag_setting
from seedbed.crds.errors import InvalidError
from seedbed.crds.feature_flag import FeatureFlagSpec


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:  # noqa: ARG001  # one form for all kinds
    """Publishes the flag."""
    setting = flag_setting(observed.key.namespace, observed.key.name)
    flag = observed.object
    if flag is None:
        return Plan(effects=withdraw(observed, setting))
    try:
        spec = read_spec(FeatureFlagSpec, flag)
    except InvalidError as error:
        return refused(flag, error, now)
    return told(
        flag,
        ready("Published", "the flag is served"),
        now,
        fields={"state": state(spec)},
        effects=publish(observed, setting, spec),
    )


def state(spec: FeatureFlagSpec) -> str:
    """What the flag does now, as `kubectl get` shows it: On, Off, or the percentage."""
    share = spec.rollout_percentage
    if not spec.enabled or (share == 0 and not spec.allow):
        return "Off"
    if share == 100 and not spec.block:  # noqa: PLR2004  # per cent
        return "On"
    return f"{share:g}%"
