"""The lifecycle as a table and as vectorised moves: what is allowed happens, everything else does not."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.runtime.seeds.stages import EXTENDED, SHORT, Stage, TransitionError, check
from seedbed.runtime.seeds.state import STAY, Core, Graft, SeedState

S = Stage
ALLOWED = {
    (S.DORMANT, S.GERMINATED),
    (S.GERMINATED, S.TRAINING),
    (S.GERMINATED, S.CANCELLED),
    (S.TRAINING, S.GRAFTING),
    (S.TRAINING, S.CULLED),
    (S.TRAINING, S.CANCELLED),
    (S.GRAFTING, S.STABILISATION),
    (S.GRAFTING, S.ROLLED_BACK),
    (S.STABILISATION, S.EVALUATING),
    (S.STABILISATION, S.ROLLED_BACK),
    (S.EVALUATING, S.FINE_TUNING),
    (S.EVALUATING, S.CULLED),
    (S.EVALUATING, S.ROLLED_BACK),
    (S.FINE_TUNING, S.FOSSILISED),
    (S.FINE_TUNING, S.CULLED),
    (S.FINE_TUNING, S.ROLLED_BACK),
    (S.CULLED, S.DORMANT),
    (S.CANCELLED, S.DORMANT),
    (S.ROLLED_BACK, S.DORMANT),
}
PAIRS = list(product(Stage, Stage))


def in_stages(stages: list[Stage]) -> SeedState:
    state = SeedState.dormant(len(stages))
    state.core[:, Core.STAGE] = torch.tensor(stages, dtype=torch.int32)
    return state


@pytest.mark.req("ESP-11")
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_exactly_the_listed_moves_are_allowed(source: Stage, target: Stage) -> None:
    if (source, target) in ALLOWED:
        check(source, target)
        return
    with pytest.raises(TransitionError) as error:
        check(source, target)
    assert (error.value.source, error.value.target) == (source, target)
    assert f"is {source.label} and cannot become {target.label}" in str(error.value)


@pytest.mark.req("ESP-11")
def test_all_moves_of_all_seeds_at_once() -> None:
    state = in_stages([source for source, _ in PAIRS])
    before = state.core.clone()
    moved = state.move(torch.tensor([target for _, target in PAIRS]), epoch=7)
    assert moved.tolist() == [pair in ALLOWED for pair in PAIRS]
    assert torch.equal(state.core[~moved], before[~moved])
    for seed, (source, target) in enumerate(PAIRS):
        if (source, target) in ALLOWED:
            assert state.stage[seed] == target
            assert state.core[seed, Core.PARENT] == source
            assert state.history(seed) == [(7, source, target)]


def test_a_target_that_is_no_stage_moves_nothing() -> None:
    state = in_stages([S.DORMANT, S.TRAINING])
    assert not state.move(torch.tensor([99, STAY]), epoch=1).any()


@pytest.mark.req("ESP-03", "ESP-11")
def test_without_the_extended_lifecycle_a_graft_becomes_a_fossil() -> None:
    assert SHORT[S.GRAFTING] == {S.FOSSILISED, S.ROLLED_BACK}
    assert not SHORT[S.STABILISATION] | SHORT[S.EVALUATING] | SHORT[S.FINE_TUNING]
    assert not SHORT[S.FOSSILISED] | EXTENDED[S.FOSSILISED]
    state = SeedState.dormant(1, table=SHORT)
    path = [S.GERMINATED, S.TRAINING, S.GRAFTING, S.STABILISATION, S.FOSSILISED]
    moved = [bool(state.move(torch.tensor([to]), 1)[0]) for to in path]
    assert moved == [True, True, True, False, True]


@pytest.mark.req("ESP-11")
def test_the_numbers_of_the_stages_are_those_of_the_plan() -> None:
    assert [stage.label for stage in Stage] == [
        "Dormant", "Germinated", "Training", "Grafting", "Stabilisation", "Evaluating",
        "FineTuning", "Fossilised", "Culled", "Cancelled", "RolledBack",
    ]  # fmt: skip


@given(st.lists(st.lists(st.integers(-1, 10), min_size=3, max_size=3), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_walk_stays_in_the_table_and_alpha_follows_the_stage(walk: list[list[int]]) -> None:
    state = SeedState.dormant(3)
    told: list[list[tuple[int, Stage, Stage]]] = [[], [], []]
    for epoch, targets in enumerate(walk):
        before = state.stage.tolist()
        moved = state.move(torch.tensor(targets), epoch)
        for seed in range(3):
            expected = (Stage(before[seed]), Stage(max(targets[seed], 0)))
            allowed = targets[seed] >= 0 and expected in ALLOWED
            assert bool(moved[seed]) == allowed
            if allowed:
                told[seed].insert(0, (epoch, *expected))
                full = S.STABILISATION <= state.stage[seed] <= S.FOSSILISED
                assert state.alpha[seed] == (1.0 if full else 0.0)
    assert [state.history(seed) for seed in range(3)] == [each[:10] for each in told]


def test_a_failed_try_is_counted_and_a_cancelled_one_is_not() -> None:
    state = in_stages([S.TRAINING, S.GRAFTING, S.TRAINING])
    state.core[:, Core.BLUEPRINT] = 2
    state.move(torch.tensor([S.CULLED, S.ROLLED_BACK, S.CANCELLED]), 1)
    assert state.core[:, Core.FAILURES].tolist() == [1, 1, 0]
    state.move(torch.tensor([S.DORMANT] * 3), 4)
    assert state.core[:, Core.FAILURES].tolist() == [1, 1, 0]
    assert state.core[:, Core.BLUEPRINT].tolist() == [0, 0, 0]
    assert not state.graft.any()


def test_the_state_of_a_seed_takes_less_than_150_bytes() -> None:
    state = SeedState.dormant(10_000)
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values())
    assert held == 10_000 * state.bytes_per_seed
    assert state.bytes_per_seed < 150
    assert state.core.shape == (10_000, 8)
    assert state.graft.shape == (10_000, len(Graft))
