"""What `seedbed baseline` and `seedbed compare` do; imported when they run, because torch takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.cli import output as printed
from seedbed.cli.options import Form
from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds import comparison, migration, reference
from seedbed.runtime.seeds.baseline import BATCH_SIZES, Baseline, Change, changes, measure
from seedbed.runtime.seeds.data import REFUSALS, said
from seedbed.runtime.seeds.loading import best_device, called

_COLUMNS = ("BATCH", "MEAN MS", "P50", "P95", "P99", "SAMPLES/S", "MEMORY MIB")
_CHANGE_COLUMNS = ("BATCH", "METRIC", "BEFORE", "NOW", "GROWTH", "AT LEAST", "")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class How:
    """What to measure: see the options of `seedbed baseline`."""

    model: str
    shape: str
    seeds: int
    acting: float
    batches: tuple[int, ...]
    warm_up: int
    iterations: int


@dataclass(frozen=True, slots=True)
class Race:
    """What to compare: see `seedbed compare`."""

    a: str
    b: str
    shape: str
    batch: int
    samples: int


def is_file(path: str) -> bool:
    """Whether an argument names a file and not an entry point."""
    return Path(path).is_file()


def baseline(
    how: How,
    against: Path | None,
    tolerance: float,
    targets: Path | None,
    save: Path | None,
    form: Form,
) -> int:
    """Measure, judge, print; 1 where something is missed or has regressed."""
    _check_place(save)
    phase = migration.load(targets).phases[0].targets if targets else None
    before = Baseline.read(_json(against)) if against else None
    found, plain = _measured(how, also_plain=phase is not None)
    failures = migration.missed(found, phase, plain) if phase else []
    changed = changes(before, found, tolerance) if before else []
    if save is not None:
        save.write_text(json.dumps(found.record()) + "\n")
    if form is Form.table:
        _print(found, failures, changed)
    else:
        told = {"missed": failures, "changes": [_record(each) for each in changed]}
        print(printed.serialised(found.record() | told, form))
    return int(bool(failures) or any(each.regressed for each in changed))


def regressions(before: Path, now: Path, tolerance: float, form: Form) -> int:
    """Compare two stored baselines; 1 where the second regressed."""
    found = changes(Baseline.read(_json(before)), Baseline.read(_json(now)), tolerance)
    if form is Form.table:
        _print_changes(found)
    else:
        print(printed.serialised([_record(each) for each in found], form))
    return int(any(each.regressed for each in found))


def compare(race: Race, save: Path | None, form: Form) -> int:
    """Let two models race, or judge a stored race again."""
    _check_place(save)
    stored = is_file(race.a) and not race.b
    pairs = comparison.Pairs.read(_json(Path(race.a))) if stored else _raced(race)
    if save is not None:
        save.write_text(json.dumps(comparison.record(pairs)) + "\n")
    told = comparison.verdict(pairs)
    if form is not Form.table:
        print(printed.serialised(asdict(told), form))
        return 0
    print(f"winner: {told.winner} (confidence {told.confidence:.3f}): {told.reason}")
    print(f"answers: cosine {told.cosine:.4f} over {told.samples} pairs")
    return 0


def _check_place(save: Path | None) -> None:
    """Minutes of measuring should not be lost to a file that cannot be written."""
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise InvalidError("save", f"expected a file in a folder that is there, not {save}")


def _asked(model: Callable[..., Any], shape: str, inputs: tuple[Tensor, ...]) -> Tensor:
    """What a model answers.

    Raises:
        InvalidError: it takes no inputs of this shape, or gives no tensor.
    """
    try:
        with torch.inference_mode():
            found = model(*inputs)
    except REFUSALS as error:
        raise InvalidError(
            "shape", f"the model refuses inputs of {shape}: {said(error)}"
        ) from error
    if not isinstance(found, Tensor):
        raise InvalidError("model", f"answers with a {type(found).__name__}, expected a tensor")
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidError(str(path), f"is no JSON file: {error}") from error


def _module(entry: str) -> nn.Module:
    """The torch module that an entry point gives."""
    found = called(entry, {}, "model")
    if not isinstance(found, nn.Module):
        raise InvalidError("model", f"{entry} gave a {type(found).__name__}, no torch module")
    return found.eval().to(best_device())


def _inputs(shape: str, batch: int, count: int) -> list[tuple[Tensor, ...]]:
    sizes = shape.split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in sizes):
        raise InvalidError("shape", "expected sizes with an x between them, such as 3x32x32")
    chance = torch.Generator().manual_seed(batch)
    return [(torch.randn(batch, *map(int, sizes), generator=chance),) for _ in range(count)]


def _measured(how: How, *, also_plain: bool) -> tuple[Baseline, Baseline | None]:
    """The model with its seeds, and the plain one where it is wanted."""
    device = best_device()

    def figures(name: str, call: Any) -> Baseline:
        with torch.inference_mode():
            return measure(
                name,
                call,
                lambda batch: _inputs(how.shape, batch, 1)[0],
                device=device,
                batch_sizes=how.batches or BATCH_SIZES,
                warm_up=how.warm_up,
                measured=how.iterations,
            )

    made = _module(how.model) if how.model else reference.host().to(device)
    _asked(made, how.shape, tuple(x.to(device) for x in _inputs(how.shape, 1, 1)[0]))
    name = how.model or f"reference {reference.LAYERS}x{reference.HIDDEN}"
    if how.seeds == 0:
        return figures(name, made), None
    if not any(made.children()):
        raise InvalidError("seeds", "the model has no layers for them: --seeds 0 measures it alone")
    plain = figures(name, made) if also_plain else None
    model = reference.seeded(how.seeds, device, acting=how.acting, module=made)
    found = figures(f"{name}, {how.seeds} seeds a layer", model.forward)
    return reference.with_seeds(found, model), plain


def _raced(race: Race) -> comparison.Pairs:
    if ":" not in race.a or ":" not in race.b:
        raise InvalidError("models", "expected two entry points, or two files of baselines")
    device = best_device()
    inputs = [(x.to(device),) for (x,) in _inputs(race.shape, race.batch, race.samples)]
    models = _module(race.a), _module(race.b)
    for model in models:
        _asked(model, race.shape, inputs[0])
    return comparison.run(*models, inputs, device=device)


def _record(change: Change) -> dict[str, Any]:
    return {**asdict(change), "growth": change.growth}


def _print(found: Baseline, failures: Sequence[str], changed: Sequence[Change]) -> None:
    print(f"{found.name} on {found.device} ({found.machine.get('chip', '')})")
    rows = [
        (
            str(one.batch),
            f"{one.mean_ms:.3f}",
            *(f"{one.percentile_ms(each):.3f}" for each in (50, 95, 99)),
            f"{one.throughput:.0f}",
            f"{one.memory_bytes / _MIB:.0f}",
        )
        for one in found.batches
    ]
    printed.console().print(printed.plain_table(_COLUMNS, rows))
    for failure in failures:
        print(f"missed: {failure}")
    if changed:
        _print_changes(changed)


def _print_changes(changed: Sequence[Change]) -> None:
    rows = [
        (
            str(each.batch),
            each.metric,
            f"{each.before:.4g}",
            f"{each.now:.4g}",
            f"{each.growth:+.1%}",
            f"{each.surely:+.1%}",
            "regressed" if each.regressed else "",
        )
        for each in changed
    ]
    printed.console().print(printed.plain_table(_CHANGE_COLUMNS, rows))
