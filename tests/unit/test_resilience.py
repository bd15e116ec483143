"""Breaker, retries and quota: tables and random histories, without any clock."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from seedbed.crds.errors import InvalidError, QueueFullError, SeedbedError, UnavailableError
from seedbed.runtime.llm.providers import MalformedError, RateLimitedError, RefusedError
from seedbed.runtime.llm.resilience.breaker import Breaker, BreakerPolicy, Pass
from seedbed.runtime.llm.resilience.quota import Quota
from seedbed.runtime.llm.resilience.retry import (
    MOST_RETRIES,
    RetryPolicy,
    blames_target,
    classify,
    wait_before,
)


def call(breaker: Breaker, now: float, *, well: bool) -> None:
    held = breaker.admit(now)
    assert held is not None
    breaker.ended(held, now, well=well)


@pytest.mark.req("COG-7.1.1")
@pytest.mark.req("DSX-30")
def test_half_of_the_calls_failing_within_ten_seconds_opens_it_for_thirty() -> None:
    states: list[str] = []
    breaker = Breaker(changed=states.append)
    for second, well in enumerate([True, True, True, False, False]):
        call(breaker, second, well=well)
    assert not states, "two of five"
    call(breaker, 5, well=False)
    assert states == ["open"], "three of six"
    assert breaker.admit(34.9) is None
    assert breaker.wait(30) == pytest.approx(5)
    probe = breaker.admit(35)
    assert probe is not None
    assert breaker.admit(35) is None, "one probe at a time"
    breaker.ended(probe, 36, well=False)
    assert breaker.admit(65.9) is None
    call(breaker, 66, well=True)
    assert breaker.state == "closed"
    assert states == ["open", "half-open", "open", "half-open", "closed"]


@pytest.mark.req("COG-7.1.1")
def test_what_is_older_than_the_window_counts_no_more() -> None:
    breaker = Breaker()
    for _ in range(4):
        call(breaker, 0, well=False)
    for _ in range(5):
        call(breaker, 10, well=True)
    call(breaker, 11, well=False)
    assert breaker.state == "closed"


def test_too_few_calls_tell_nothing() -> None:
    breaker = Breaker()
    for _ in range(4):
        call(breaker, 0, well=False)
    assert breaker.state == "closed"


def test_calls_that_began_before_it_opened_do_not_close_it() -> None:
    breaker = Breaker(BreakerPolicy(minimum=1))
    early = breaker.admit(0)
    assert early is not None
    call(breaker, 1, well=False)
    breaker.ended(early, 2, well=True)
    assert breaker.admit(3) is None
    probe = breaker.admit(31)
    assert probe is not None
    breaker.ended(early, 31, well=True)
    assert breaker.admit(31) is None, "the probe is still under way"


def test_a_probe_that_is_given_up_leaves_room_for_the_next() -> None:
    breaker = Breaker(BreakerPolicy(minimum=1))
    call(breaker, 0, well=False)
    probe = breaker.admit(30)
    assert probe is not None
    breaker.abandoned(probe)
    call(breaker, 30, well=True)
    assert breaker.state == "closed"


class AnyHistory(RuleBasedStateMachine):
    """A breaker beside a model that keeps every outcome and counts anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.held: list[Pass] = []
        self.outcomes: list[tuple[float, bool]] = []
        self.opened = 0.0

    @rule(wait=st.floats(0, 40))
    def time_passes(self, wait: float) -> None:
        self.now += wait

    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        got = self.breaker.admit(self.now)
        if before == "closed":
            assert got is not None
        if before == "open":
            assert (got is not None) == (self.now >= self.opened + 30)
        if before == "half-open":
            assert got is None or not self.held, "one probe at a time"
        if got is not None:
            self.held = [*self.held, got] if before == "closed" else [got]

    @precondition(lambda self: self.held)
    @rule(well=st.booleans())
    def ends(self, well: bool) -> None:
        before = self.breaker.state
        self.breaker.ended(self.held.pop(), self.now, well=well)
        if before == "half-open":
            assert self.breaker.state == ("closed" if well else "open")
        else:
            self.outcomes.append((self.now, well))
            counted = [good for at, good in self.outcomes if at > self.now - 10]
            failed = counted.count(False)
            opens = not well and len(counted) >= 5 and failed * 2 >= len(counted)
            assert self.breaker.state == ("open" if opens else "closed")
        if self.breaker.state != before:
            self.held, self.outcomes = [], []
            self.opened = self.now

    @precondition(lambda self: self.held)
    @rule()
    def is_given_up(self) -> None:
        before = self.breaker.state
        self.breaker.abandoned(self.held.pop())
        assert self.breaker.state == before


@pytest.mark.req("COG-7.1.1")
def test_any_history_agrees_with_a_plain_count() -> None:
    run_state_machine_as_test(AnyHistory)


LIMITED = RateLimitedError("a", "slow down", 3.0)
ERRORS: list[tuple[SeedbedError, str, bool]] = [
    (InvalidError("x", "y"), "caller", False),
    (RefusedError("a", "wrong key"), "refused", True),
    (QueueFullError("q", 1), "full", False),
    (LIMITED, "limited", False),
    (UnavailableError("down"), "passing", True),
    (MalformedError("a", "half an answer"), "passing", True),
]


@pytest.mark.req("DSX-31")
@pytest.mark.parametrize(("error", "kind", "blamed"), ERRORS, ids=str)
def test_only_what_may_pass_is_tried_again(error: SeedbedError, kind: str, blamed: bool) -> None:
    assert classify(error) == kind
    assert blames_target(error) == blamed
    again = wait_before(RetryPolicy(), 1, error, 60, 0.5) is not None
    assert again == (kind in ("limited", "passing"))


@pytest.mark.req("COG-7.1.2")
@given(st.lists(st.floats(0, 1), min_size=10, max_size=10), st.integers(0, 20), st.floats(0.01, 2))
def test_waits_grow_and_there_are_at_most_five(
    chances: list[float], retries: int, base: float
) -> None:
    policy = RetryPolicy(retries, base, longest=1000)
    down = UnavailableError("down")
    waits = [wait_before(policy, n, down, math.inf, c) for n, c in enumerate(chances, 1)]
    made = [wait for wait in waits if wait is not None]
    assert len(made) == min(retries, MOST_RETRIES)
    assert all(one < other for one, other in itertools.pairwise(made))


@pytest.mark.req("DSX-31")
def test_a_wait_that_the_provider_asks_for_is_kept_within_reason() -> None:
    policy = RetryPolicy()
    assert wait_before(policy, 1, LIMITED, 60, 0.5) == 3.0
    assert wait_before(policy, 1, LIMITED, 2, 0.5) is None, "the deadline comes before"
    patient = RateLimitedError("a", "tomorrow", 3600)
    assert wait_before(policy, 1, patient, 1e6, 0.5) is None


@pytest.mark.req("COG-S8.1")
def test_a_quota_counts_a_minute_back() -> None:
    quota = Quota(requests=3, tokens=10_000)
    quota.take(6000, 0)
    quota.take(2000, 20)
    assert quota.used(20)["tokens"] == pytest.approx(0.8)
    assert quota.wait(2000, 20) == 0
    assert quota.wait(3000, 20) == pytest.approx(40)
    assert quota.wait(9000, 30) == pytest.approx(50)
    assert quota.wait(10_001, 30) == math.inf
    quota.take(1, 30)
    assert quota.wait(1, 30) == pytest.approx(30), "three requests in the minute"
    assert quota.used(100)["tokens"] == 0


@pytest.mark.req("COG-S8.1")
def test_what_a_request_really_used_takes_the_place_of_the_guess() -> None:
    quota = Quota(tokens=1000)
    quota.take(900, 0)
    quota.correct(900, 100, 1)
    assert quota.used(1)["tokens"] == pytest.approx(0.1)


@pytest.mark.req("COG-S8.1")
def test_what_the_provider_tells_counts_too() -> None:
    quota = Quota()
    quota.heard(
        {
            "x-ratelimit-limit-tokens": "10000",
            "x-ratelimit-remaining-tokens": "1500",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        0,
    )
    assert quota.used(0)["tokens"] == pytest.approx(0.85)
    assert quota.wait(2000, 0) == pytest.approx(360)
    assert quota.wait(1000, 0) == 0
    quota.refused(12, 0)
    assert quota.wait(1, 2) == pytest.approx(10)
    assert quota.wait(2000, 361) == 0


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 700)), max_size=40),
    st.integers(500, 3000),
)
def test_who_waits_as_told_never_passes_the_limit(
    asked: list[tuple[float, int]], limit: int
) -> None:
    quota = Quota(tokens=limit)
    now, taken = 0.0, list[tuple[float, int]]()
    for pause, tokens in asked:
        now += pause
        wait = quota.wait(tokens, now)
        if wait == math.inf:
            assert tokens > limit
            continue
        now += wait
        quota.take(tokens, now)
        taken.append((now, tokens))
        # Two floats that should be equal may differ by their last bit.
        assert sum(n for at, n in taken if at > now - 60 + 1e-6) <= limit
