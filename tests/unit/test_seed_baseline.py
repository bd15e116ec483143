"""Baselines, regressions and comparisons: an injected slowdown is found, noise is not, and rules repeat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from seedbed.cli.main import app
from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds import comparison, migration, reference
from seedbed.runtime.seeds.baseline import Baseline, Figures, changes, measure
from seedbed.runtime.seeds.stages import Stage

CPU = torch.device("cpu")


def times(chance: int, factor: float = 1.0, count: int = 100) -> tuple[float, ...]:
    """Like those of a real machine: skewed, with some slow calls."""
    random = np.random.default_rng(chance)
    found = 5.0 * random.lognormal(0.0, 0.08, count) + 10.0 * (random.random(count) < 0.03)
    return tuple((found * factor).tolist())


def stored(chance: int, factor: float = 1.0, memory: int = 1000) -> Baseline:
    return Baseline("model", "cpu", (Figures(16, times(chance, factor), memory),))


@pytest.mark.req("ESP-04", "ESP-06")
def test_one_run_gives_every_metric_of_every_batch_size() -> None:
    model = reference.seeded(8, CPU, module=nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)))
    found = measure(
        "small",
        model.forward,
        lambda batch: (torch.randn(batch, 32),),
        device=CPU,
        warm_up=2,
        measured=20,
    )
    told = reference.with_seeds(found, model, epoch_seconds=2.0).record()
    assert [one["batch"] for one in told["batches"]] == [1, 16, 32, 64]
    for one in told["batches"]:
        assert len(one["times_ms"]) == 20
        assert min(one["times_ms"]) <= one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
        assert one["mean_ms"] == pytest.approx(sum(one["times_ms"]) / 20)
        assert one["throughput"] == pytest.approx(one["batch"] / one["mean_ms"] * 1000)
        assert one["memory_bytes"] > 0
    assert told["seeds"]["seeds_per_layer"] == 8
    assert told["seeds"]["adaptation_success_rate"] == 1.0
    assert Baseline.read(json.loads(json.dumps(told))).record() == told


@pytest.mark.req("ESP-04")
def test_the_length_of_a_life_is_counted_from_germination_to_fossil() -> None:
    model = reference.seeded(2, CPU, acting=0.0, module=nn.Sequential(nn.Linear(8, 8)))
    path = [Stage(number) for number in range(1, 8)]
    for epoch, stage in enumerate(path, start=3):
        model.state.move(torch.tensor([stage, -1]), epoch)
    found = reference.with_seeds(stored(0), model, epoch_seconds=2.0)
    assert found.seeds["seed_lifecycle_seconds"] == 12.0


@pytest.mark.req("ESP-05")
@pytest.mark.parametrize("chance", range(8))
def test_an_injected_slowdown_is_flagged_and_noise_is_not(chance: int) -> None:
    before = stored(chance)
    noise = changes(before, stored(chance + 100), 0.05)
    assert not [each for each in noise if each.regressed]
    slower = changes(before, stored(chance + 200, factor=1.15), 0.05)
    assert {each.metric for each in slower if each.regressed} >= {"p50_ms"}
    in_ci = changes(before, stored(chance + 200, factor=1.07), 0.10)
    assert not [each for each in in_ci if each.regressed]


@pytest.mark.req("ESP-05")
def test_more_memory_is_a_regression_and_other_baselines_are_refused() -> None:
    (grown,) = [
        each for each in changes(stored(1), stored(2, memory=1060)) if each.metric == "memory_bytes"
    ]
    assert grown.regressed
    assert grown.growth == pytest.approx(0.06)
    with pytest.raises(InvalidError, match="measured on cpu"):
        changes(stored(1), replace(stored(1), device="cuda"))
    with pytest.raises(InvalidError, match="no batch size"):
        changes(stored(1), Baseline("m", "cpu", (Figures(4, times(1), 1),)))
    wrongs: list[Any] = [{}, {"batches": 3}, [], stored(1).record() | {"batches": []}]
    for wrong in wrongs:
        with pytest.raises(InvalidError):
            Baseline.read(wrong)


def told_by(*draws: Iterator[float]) -> Callable[..., float]:
    """A clock whose times of the first and the second model are given, whatever really happens."""

    def clock(call: Any, inputs: Any, device: Any) -> float:
        call(*inputs)
        drawn: float = next(draws[call.who])
        return drawn

    return clock


class Runner:
    """A model that the clock can tell from the other one."""

    def __init__(self, who: int, model: Callable[[Tensor], Tensor]) -> None:
        self.who, self.model = who, model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


def raced(
    factor: float, other: Callable[[Tensor], Tensor] | None = None, count: int = 200
) -> comparison.Pairs:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    runners = Runner(0, model), Runner(1, other or model)
    inputs = [(torch.randn(4, 8),) for _ in range(count)]
    clock = told_by(iter(times(1, count=count)), iter(times(2, factor, count)))
    with torch.no_grad():
        targets = [model(*given).argmax(dim=1) for given in inputs]
    return comparison.run(*runners, inputs, device=CPU, targets=targets, clock=clock)


@pytest.mark.req("ESP-07", "ESP-08")
def test_identical_models_have_no_winner_and_a_slower_clone_loses() -> None:
    same = comparison.verdict(raced(1.0))
    assert (same.winner, same.confidence) == ("none", 0.0)
    assert same.cosine == 1.0
    slower = comparison.verdict(raced(1.2))
    assert slower.winner == "a"
    assert slower.p_time < 0.05
    assert slower.confidence == 1.0 - slower.p_time
    assert slower.ratio == pytest.approx(1.2, abs=0.05)
    assert comparison.verdict(raced(0.8)).winner == "b"


@pytest.mark.req("ESP-07")
def test_a_clone_that_really_does_more_loses() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)

    def slow(x: Tensor) -> Tensor:
        for _ in range(20):
            model(x)
        found: Tensor = model(x)
        return found

    inputs = [(torch.randn(64, 64),) for _ in range(100)]
    told = comparison.verdict(comparison.run(model, slow, inputs, device=CPU))
    assert told.winner == "a"
    assert told.p_time < 0.05


@pytest.mark.req("ESP-07", "ESP-08")
def test_a_faster_model_that_answers_otherwise_does_not_win() -> None:
    torch.manual_seed(9)
    other = nn.Linear(8, 4)
    worse = comparison.verdict(raced(0.5, other))
    assert worse.winner == "a"
    assert worse.accuracy_change is not None
    assert worse.accuracy_change < 0
    without = replace(raced(0.5, other), a_right=(), b_right=())
    assert comparison.verdict(without).winner == "none"
    assert "cosine" in comparison.verdict(without).reason


@pytest.mark.req("ESP-08")
def test_the_verdict_follows_from_the_stored_pairs_alone() -> None:
    record = json.loads(json.dumps(comparison.record(raced(1.1))))
    pairs = comparison.Pairs.read(record)
    again = comparison.record(pairs)
    assert json.loads(json.dumps(again)) == record
    wrongs: list[Any] = [{}, {"pairs": {}}, {"pairs": record["pairs"] | {"b_ms": []}}]
    for wrong in wrongs:
        with pytest.raises(InvalidError):
            comparison.Pairs.read(wrong)


def test_the_paired_test_gives_the_known_value() -> None:
    """Student's own data on two drugs, 1908: t = 4.062 at 9 degrees of freedom."""
    first = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
    second = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
    pairs = comparison.Pairs((1.0,) * 10, (1.0,) * 10, (1.0,) * 10, first, second)
    told = comparison.verdict(pairs)
    assert told.p_accuracy == pytest.approx(0.00283, abs=1e-5)
    assert told.winner == "b"


@pytest.mark.req("ESP-04", "ESP-05", "ESP-06")
def test_the_command_measures_stores_and_compares(tmp_path: Path) -> None:
    entry = f"{__name__}:tiny"
    run = CliRunner()
    asked = ["baseline", "--model", entry, "--shape", "16", "--seeds", "4", "--warm-up", "1",
             "--iterations", "20", "--batch", "2", "--batch", "4"]  # fmt: skip
    file = tmp_path / "before.json"
    done = run.invoke(app, [*asked, "--save", str(file)])
    assert done.exit_code == 0, done.output
    assert "SAMPLES/S" in done.output
    slow = json.loads(file.read_text())
    for one in slow["batches"]:
        one["times_ms"] = [value * 3 for value in one["times_ms"]]
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    done = run.invoke(app, ["compare", str(file), str(tmp_path / "slow.json")])
    assert done.exit_code == 1
    assert "regressed" in done.output
    assert run.invoke(app, ["compare", str(tmp_path / "slow.json"), str(file)]).exit_code == 0
    strict = tmp_path / "migration.yaml"
    strict.write_text("phases: [{name: now, targets: {forwardP99Ms: 0.000001}}]")
    done = run.invoke(app, [*asked, "--migration", str(strict)])
    assert done.exit_code == 1
    assert "missed: batch 2: P99" in done.output


@pytest.mark.req("ESP-07", "ESP-08")
def test_the_command_compares_models_and_judges_a_stored_race_again(tmp_path: Path) -> None:
    run, file = CliRunner(), tmp_path / "race.json"
    entry = f"{__name__}:tiny"
    asked = ["compare", entry, entry, "--shape", "16", "--samples", "20", "--save", str(file)]
    first = run.invoke(app, asked)
    assert first.exit_code == 0, first.output
    assert "cosine 1.0000 over 20 pairs" in first.output
    assert run.invoke(app, ["compare", str(file)]).output == first.output
    done = run.invoke(app, ["compare", "nothing"])
    assert done.exit_code == 1
    assert "two entry points" in done.output


def tiny() -> nn.Module:
    """A model for the commands."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))


@pytest.mark.req("ESP-12")
def test_the_migration_has_the_known_values_by_default(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    found = migration.load(tmp_path / "empty.yaml")
    targets = found.phases[0].targets
    assert (targets.forward_p99_ms, targets.gpu_utilisation) == (100.0, 0.8)
    assert (targets.memory_overhead, targets.adaptation_success) == (0.2, 0.95)
    assert (found.rollout.canary, found.rollout.increment) == (5.0, 10.0)
    assert found.rollout.regression == 0.1
    rollback = found.rollback
    assert (rollback.error_rate, rollback.latency_growth) == (0.05, 0.1)
    assert (rollback.leak_gb_per_hour, found.monitoring.interval_seconds) == (0.1, 60)


@pytest.mark.req("ESP-12")
@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("rollout: {canary: 0}", "rollout.canary"),
        ("rollout: {increment: 101}", "rollout.increment"),
        ("rollback: {errorRate: high}", "rollback.errorRate"),
        ("monitoring: {intervalSeconds: 0}", "monitoring.intervalSeconds"),
        ("phases: []", "phases"),
        ("phases: [{name: a, targets: {gpuUtilisation: 80}}]", "phases.0.targets.gpuUtilisation"),
        ("phases: [{name: a}, {name: a}]", "phases: each"),
        ("unknown: 1", "unknown"),
        ("[", "migration"),
        ("7", "migration"),
    ],
)
def test_bad_values_are_refused_with_one_error(text: str, field: str, tmp_path: Path) -> None:
    file = tmp_path / "migration.yaml"
    file.write_text(text)
    with pytest.raises(InvalidError) as error:
        migration.load(file)
    assert field in error.value.message
    assert len(error.value.message.splitlines()) == 1


@pytest.mark.req("ESP-06", "ESP-12")
def test_what_misses_a_target_is_named() -> None:
    slow = Baseline(
        "m", "cuda", (Figures(1, (120.0,) * 9, 1300),), {"adaptation_success_rate": 0.9}
    )
    plain = Baseline("m", "cuda", (Figures(1, (5.0,) * 9, 1000),))
    told = migration.missed(slow, migration.Targets(), plain)
    assert [line.split(":")[0] for line in told] == [
        "batch 1", "adaptation success 0.90 is below 0.95", "batch 1",
    ]  # fmt: skip
    assert migration.missed(plain, migration.Targets(), plain) == []


def refused(*arguments: str) -> str:
    """The one line that a wrong call gives."""
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code in (1, 2), found.output
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.output


MODEL = "tests.seed_pods:model"


@pytest.mark.req("ESP-06")
def test_a_baseline_that_cannot_be_taken_is_one_error(tmp_path: Path) -> None:
    few = ("--iterations", "2", "--warm-up", "0", "--batch", "1")
    for batch in ("0", "-3"):
        assert "Invalid value" in refused("baseline", "--batch", batch)
    assert "shape: the model refuses" in refused("baseline", "--model", MODEL, "--shape", "5", *few)
    nowhere = str(tmp_path / "no" / "file.json")
    right = ("baseline", "--model", MODEL, "--shape", "8", *few)
    assert "save: expected a file in a folder" in refused(*right, "--save", nowhere)
    told = refused("baseline", "--model", "torch.nn:Identity", "--shape", "8", *few)
    assert "seeds: the model has no layers for them" in told
    stored = tmp_path / "stored.json"
    assert CliRunner().invoke(app, [*right, "--save", str(stored)]).exit_code == 0
    for wrong in ("nan", "-1.0", "1e999"):
        text = json.loads(stored.read_text())
        text["batches"][0]["times_ms"][0] = float(wrong)
        (tmp_path / "wrong.json").write_text(json.dumps(text))
        told = refused(*right, "--against", str(tmp_path / "wrong.json"))
        assert "baseline: holds no times" in told


@pytest.mark.req("ESP-07")
def test_models_that_cannot_race_are_one_error(tmp_path: Path) -> None:
    few = ("--samples", "2", "--batch", "2")
    assert "shape: the model refuses" in refused("compare", MODEL, MODEL, "--shape", "5", *few)
    nowhere = str(tmp_path / "no" / "file.json")
    assert "save: " in refused("compare", MODEL, MODEL, "--shape", "8", *few, "--save", nowhere)


@pytest.mark.req("ESP-08")
def test_a_model_that_answers_no_numbers_does_not_win_by_being_fast() -> None:
    rows = torch.ones(3, 4)
    broken = rows.clone()
    broken[1, 2] = torch.nan
    assert comparison.similarity(rows, broken) == 0.0
    assert comparison.similarity(broken, broken) == 0.0
    pairs = comparison.Pairs((2.0, 2.1, 2.2) * 9, (1.0, 1.1, 1.2) * 9, (0.0,) * 27, (), ())
    assert comparison.verdict(pairs).winner == "none"
