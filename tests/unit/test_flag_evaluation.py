"""A flag is a truth value for each subject, and a percentage is a share of subjects."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.feature_flag import FeatureFlagSpec
from seedbed.runtime.flags.evaluate import BUCKETS, bucket, evaluate

KEY = "team/prompt-style"
percentages = st.floats(min_value=0, max_value=100, allow_nan=False)
subjects = st.text(max_size=40)


def spec(percentage: float = 100.0, **fields: object) -> FeatureFlagSpec:
    return FeatureFlagSpec.model_validate({"rolloutPercentage": percentage, **fields})


@given(percentages, percentages, subjects)
def test_raising_the_percentage_only_adds_subjects(a: float, b: float, subject: str) -> None:
    low, high = sorted((a, b))
    if evaluate(spec(low), KEY, subject).value:
        assert evaluate(spec(high), KEY, subject).value


@given(percentages, subjects)
def test_the_same_subject_gets_the_same_answer(percentage: float, subject: str) -> None:
    first = evaluate(spec(percentage), KEY, subject)
    assert first == evaluate(spec(percentage), KEY, subject)
    assert first.variant == ("on" if first.value else "off")
    assert type(first.value) is bool


def test_buckets_do_not_move_between_releases() -> None:
    # Fixed points: a change of the hash would throw every running rollout about.
    assert bucket("default/a", "alice") == 3021
    assert bucket("default/b", "alice") == 7183


@pytest.mark.req("SNK-05")
@pytest.mark.parametrize("percentage", [0, 0.01, 1, 10, 50, 99, 100])
def test_the_share_of_subjects_is_the_percentage(percentage: float) -> None:
    n = 20_000
    on = sum(evaluate(spec(percentage), KEY, f"user-{i}").value for i in range(n))
    share = percentage / 100
    spread = 5 * math.sqrt(n * share * (1 - share))
    assert abs(on - n * share) <= spread


@given(subjects)
def test_zero_is_nobody_and_hundred_is_everybody(subject: str) -> None:
    assert evaluate(spec(0), KEY, subject).value is False
    assert evaluate(spec(100), KEY, subject).value is True
    assert evaluate(spec(0), KEY, None).reason == "STATIC"


@given(percentages.filter(lambda p: 0 < p < 100))
def test_a_share_of_nobody_is_off(percentage: float) -> None:
    decision = evaluate(spec(percentage), KEY, None)
    assert (decision.value, decision.reason) == (False, "DEFAULT")


@pytest.mark.parametrize("enabled", [True, False])
@given(percentages)
def test_lists_come_before_the_percentage_and_block_before_allow(
    enabled: object, percentage: float
) -> None:
    flag = spec(percentage, enabled=enabled, allow=["a", "both"], block=["b", "both"])
    found = {s: evaluate(flag, KEY, s) for s in ("a", "b", "both")}
    assert [d.value for d in found.values()] == [enabled, False, False]
    wanted = "TARGETING_MATCH" if enabled else "DISABLED"
    assert {d.reason for d in found.values()} == {wanted}


def test_a_flag_with_lists_is_not_static() -> None:
    # OpenFeature clients may keep a STATIC answer for every subject.
    assert evaluate(spec(100, block=["b"]), KEY, "x").reason == "DEFAULT"


@pytest.mark.req("SNK-05")
def test_disabling_turns_it_off_at_once_for_everybody() -> None:
    flag = spec(100, enabled=False, allow=["a"])
    assert {evaluate(flag, KEY, s).value for s in ("a", "x", None)} == {False}


def test_two_flags_choose_different_subjects() -> None:
    people = [f"user-{i}" for i in range(2000)]
    first, second = (
        {p for p in people if evaluate(spec(50), key, p).value} for key in ("n/one", "n/two")
    )
    assert 0.4 < len(first & second) / len(first) < 0.6


@given(st.integers(min_value=0, max_value=BUCKETS))
def test_every_hundredth_of_a_percent_is_exact(hundredths: int) -> None:
    flag = spec(hundredths / 100)
    edge = next(
        s
        for s in map(str, range(5_000_000))
        if hundredths in (0, BUCKETS) or abs(bucket(KEY, s) - hundredths) <= 3
    )
    assert evaluate(flag, KEY, edge).value == (bucket(KEY, edge) < hundredths)
