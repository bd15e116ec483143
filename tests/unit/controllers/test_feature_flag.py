"""FeatureFlag: published, withdrawn, shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.controllers.feature_flag import reconcile
from seedbed.controllers.plan import Observed, Publish, Withdraw
from tests.unit.controllers.objects import DEFAULTS, NOW, after, look, made, quiet, verdict


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        ({}, "On"),
        ({"enabled": False}, "Off"),
        ({"enabled": False, "allow": ["me"]}, "Off"),
        ({"rolloutPercentage": 25}, "25%"),
        ({"rolloutPercentage": 12.5}, "12.5%"),
        ({"rolloutPercentage": 0}, "Off"),
        ({"rolloutPercentage": 0, "allow": ["me"]}, "0%"),
        ({"block": ["you"]}, "100%"),
    ],
)
def test_the_status_says_what_the_flag_does(spec: dict[str, Any], state: str) -> None:
    plan = reconcile(look(made("FeatureFlag", "brief", spec)), NOW, DEFAULTS)
    assert plan.status is not None
    assert plan.status["state"] == state
    assert verdict(plan, "Ready") == ("True", "Published")


def test_it_is_published_and_withdrawn() -> None:
    seen = look(made("FeatureFlag", "brief", {"rolloutPercentage": 25}))
    (effect,) = reconcile(seen, NOW, DEFAULTS).effects
    assert isinstance(effect, Publish)
    assert effect.key == "flags/team/brief"
    assert json.loads(effect.value)["rolloutPercentage"] == 25
    gone = Observed(seen.key, None, settings={effect.key: effect.value})
    assert reconcile(gone, NOW, DEFAULTS).effects == (Withdraw(effect.key),)


@given(
    spec=st.fixed_dictionaries(
        {},
        optional={
            "enabled": st.booleans(),
            "rolloutPercentage": st.floats(-1, 101),
            "allow": st.lists(st.text(max_size=3), max_size=3),
        },
    )
)
def test_a_second_pass_changes_nothing(spec: dict[str, Any]) -> None:
    seen = look(made("FeatureFlag", "brief", spec))
    assert quiet(reconcile, after(seen, reconcile(seen, NOW, DEFAULTS)))
