"""What the five kinds have in common: object metadata, conditions, frozen camel-case models."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "seedbed.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "seedbed-operator"

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
LONGEST_DURATION = "36500d"
"""A hundred years: what is later is no date that every program can read."""
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@lru_cache(maxsize=1024)
def seconds(duration: str) -> float:
    """The length in seconds of a duration such as `90s`, `1h30m` or `250ms`.

    Raises:
        ValueError: where the text is no duration.
    """
    if not re.fullmatch(DURATION_PATTERN, duration):
        raise ValueError("expected a duration such as 30s, 5m or 1h30m")
    return sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _DURATION_PART.findall(duration))


def _checked_duration(value: str) -> str:
    if seconds(value) > seconds(LONGEST_DURATION):
        raise ValueError(f"must be at most {LONGEST_DURATION}")
    return value


Duration = Annotated[
    str, Field(pattern=DURATION_PATTERN, max_length=32), AfterValidator(_checked_duration)
]
ENTRY_POINT = r"^[A-Za-z_@][A-Za-z0-9_./@-]*:[A-Za-z_][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]

# Marks a field whose content the schema leaves open (x-kubernetes-preserve-unknown-fields).
OPEN: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}
JsonValue = Annotated[Any, Field(json_schema_extra={**OPEN, "nullable": True})]
# Marks a list of Kubernetes' own objects that carry a name, such as environment variables.
NAMED: dict[str, Any] = {
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 253}},
        **OPEN,
    }
}
Text = Annotated[str, Field(max_length=16_384)]
FieldName = Annotated[str, Field(max_length=128)]
LabelValue = Annotated[str, Field(max_length=63)]
Subject = Annotated[str, Field(min_length=1, max_length=128)]


class Model(BaseModel):
    """A frozen model whose fields are camel case outside and snake case inside."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid"
    )


class Observation(Model):
    """A model read back from a cluster: fields this version does not know are let pass."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )


class ObjectMeta(Observation):
    """The part of Kubernetes' object metadata that Seedbed reads."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Condition(Observation):
    """One condition of an object, in the form every Kubernetes tool knows."""

    type: str = Field(description="Name of the condition.", max_length=64, examples=["Ready"])
    status: Literal["True", "False", "Unknown"] = Field(
        description="Whether it holds.", examples=["True"]
    )
    reason: str = Field(
        description="One word for why, for programs.",
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        max_length=128,
        examples=["Available"],
    )
    message: str = Field(
        description="One sentence for people.", max_length=1024, examples=["4 of 4 workers ready"]
    )
    last_transition_time: datetime = Field(
        description="When the status last changed.", examples=["2026-11-21T10:00:00Z"]
    )
    observed_generation: int = Field(
        default=0, description="The generation it speaks of.", ge=0, examples=[1]
    )


class Status(Observation):
    """What every kind reports."""

    observed_generation: int = Field(
        default=0,
        description="The generation of the spec that this status speaks of.",
        ge=0,
        examples=[1],
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Ready, Reconciling, Stalled and what the kind adds.",
        max_length=16,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    fencing_token: int = Field(
        default=0,
        description="Token of the operator that wrote this status; it never goes back.",
        ge=0,
        examples=[4711],
    )


class Reference(Model):
    """Names another object in the same namespace."""

    name: Name = Field(description="Name of the object.", examples=["general"])
