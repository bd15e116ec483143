"""The migration's configuration: what a phase must reach, how it is rolled out, and when it is taken back.

One YAML file, checked as a whole when it is read: a bad value is one error that names its field.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError, model_validator

from seedbed.crds.base import Model
from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds.baseline import Baseline


class Targets(Model):
    """What a phase must reach."""

    forward_p99_ms: float = Field(default=100.0, gt=0, le=60_000)
    gpu_utilisation: float = Field(default=0.80, ge=0, le=1)
    memory_overhead: float = Field(default=0.20, ge=0, le=10)
    adaptation_success: float = Field(default=0.95, ge=0, le=1)


class Team(Model):
    """Who does it."""

    lead: str = Field(default="", max_length=128)
    members: tuple[str, ...] = Field(default=(), max_length=64)
    sync: str = Field(default="weekly", pattern="^(daily|weekly|monthly)$")


class Rollout(Model):
    """How the share of users grows, in percent, and what stops it."""

    canary: float = Field(default=5.0, gt=0, le=100)
    increment: float = Field(default=10.0, gt=0, le=100)
    approval_above: float = Field(default=50.0, ge=0, le=100)
    regression: float = Field(default=0.10, ge=0, le=1)


class Rollback(Model):
    """What takes a phase back: any of these, passed."""

    error_rate: float = Field(default=0.05, ge=0, le=1)
    latency_growth: float = Field(default=0.10, ge=0, le=10)
    leak_gb_per_hour: float = Field(default=0.1, ge=0, le=1024)


class Monitoring(Model):
    """How often metrics are taken, and who hears of a breach."""

    interval_seconds: int = Field(default=60, ge=1, le=3600)
    receivers: tuple[str, ...] = Field(default=(), max_length=64)


class Phase(Model):
    """One phase of the migration."""

    name: str = Field(min_length=1, max_length=64)
    weeks: int = Field(default=4, ge=1, le=104)
    targets: Targets = Field(default_factory=Targets)


class Migration(Model):
    """The whole file; every value has a default."""

    phases: tuple[Phase, ...] = Field(default=(Phase(name="phase-0"),), min_length=1, max_length=16)
    team: Team = Field(default_factory=Team)
    rollout: Rollout = Field(default_factory=Rollout)
    rollback: Rollback = Field(default_factory=Rollback)
    monitoring: Monitoring = Field(default_factory=Monitoring)

    @model_validator(mode="after")
    def _phases_differ(self) -> Migration:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("phases: each needs a name of its own")
        return self


def load(path: Path) -> Migration:
    """The configuration in a file.

    Raises:
        InvalidError: the first thing that is wrong, by its field.
    """
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
        return Migration.model_validate({} if found is None else found)
    except OSError as error:
        raise InvalidError("migration", f"cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidError("migration", f"is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "migration"
        raise InvalidError(field, first["msg"].removeprefix("Value error, ")) from error


def missed(found: Baseline, targets: Targets, plain: Baseline | None = None) -> list[str]:
    """What of a phase's targets a measurement misses, a sentence each; none where it passes.

    Args:
        found: of the model with seeds.
        targets: of the phase.
        plain: of the model without seeds, for the overhead of memory.
    """
    told = []
    for one in found.batches:
        p99 = one.percentile_ms(99)
        if p99 > targets.forward_p99_ms:
            told.append(
                f"batch {one.batch}: P99 {p99:.2f} ms is above {targets.forward_p99_ms:g} ms"
            )
    rate = found.seeds.get("adaptation_success_rate")
    if rate is not None and rate < targets.adaptation_success:
        told.append(f"adaptation success {rate:.2f} is below {targets.adaptation_success:g}")
    # What a process holds never shrinks, so on a CPU the two could not be told apart.
    for one in plain.batches if plain and found.device != "cpu" else ():
        with_seeds = next((each for each in found.batches if each.batch == one.batch), None)
        if with_seeds is None:
            continue
        overhead = with_seeds.memory_bytes / max(one.memory_bytes, 1) - 1
        if overhead > targets.memory_overhead:
            told.append(
                f"batch {one.batch}: memory is {overhead:.0%} above the plain model, more than "
                f"{targets.memory_overhead:.0%}"
            )
    return told
