"""`Agent`: a DSPy program with a signature and a reasoning strategy, hosted on a Pool's workers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from seedbed.crds.base import (
    OPEN,
    Duration,
    FieldName,
    Model,
    ObjectMeta,
    Observation,
    Reference,
    Status,
)
from seedbed.crds.budget import Budget


class AgentModel(Model):
    """Which model answers, and how."""

    name: str = Field(
        default="default",
        description="Name of a model that the model service serves.",
        min_length=1,
        max_length=128,
        examples=["smollm2"],
    )
    temperature: float = Field(
        default=0.0,
        description="Sampling temperature; 0 is greedy.",
        ge=0.0,
        le=2.0,
        examples=[0.2],
    )
    max_tokens: int = Field(
        default=512, description="Longest answer, in tokens.", ge=1, le=1_000_000, examples=[256]
    )
    seed: int | None = Field(
        default=None,
        description=(
            "Asks for the same answer to the same question again. The local model then computes "
            "each prompt anew, also the part that all questions share."
        ),
        ge=0,
        le=2_147_483_647,
        examples=[1],
    )
    cache: Literal["Allowed", "ExactOnly", "Off"] = Field(
        default="Allowed",
        description=(
            "Whether answers may come from the model service's cache and be kept there: as the "
            "service is set up; to equal requests only, never to similar ones; or not at all."
        ),
        examples=["ExactOnly"],
    )


class AgentSpec(Model):
    """What a user wants of an Agent."""

    pool: Reference = Field(
        description="The Pool whose workers host the Agent.", examples=[{"name": "general"}]
    )
    signature: str = Field(
        description=(
            "Inputs and outputs in DSPy's form: `name: type, ... -> name: type, ...`. Types: str, "
            "int, float, bool, dict, list[T], Literal['a', 'b']; a field without one is str."
        ),
        min_length=4,
        max_length=4096,
        examples=["document: str -> kind: str, demands: list[str]"],
    )
    instructions: str = Field(
        default="",
        description="What the model is told to do with the inputs.",
        max_length=32_768,
        examples=["Say what kind of licence this is."],
    )
    strategy: Literal["Predict", "ChainOfThought"] = Field(
        default="Predict",
        description="How the program reasons. ChainOfThought adds an output `reasoning`.",
        examples=["ChainOfThought"],
    )
    demos: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Worked examples shown to the model; each names every input and output.",
        max_length=64,
        examples=[[{"document": "MIT License ...", "kind": "permissive", "demands": ["notice"]}]],
        json_schema_extra={"items": {"type": "object", **OPEN}},
    )
    model: AgentModel = Field(
        default_factory=AgentModel,
        description="Which model answers, and how.",
        examples=[{"name": "smollm2"}],
    )
    budget: Budget | None = Field(
        default=None,
        description=(
            "What the Agent's model calls may cost in all, over its whole life. Raising the limit "
            "goes on where it halted."
        ),
        examples=[{"limit": "5.00"}],
    )
    timeout: Duration = Field(
        default="5m",
        description="Longest time for one call of the Agent.",
        examples=["90s"],
    )
    suspend: bool = Field(
        default=False,
        description="Steps that need the Agent wait while it is set.",
        examples=[False],
    )


class AgentStatus(Status):
    """What the operator reports of an Agent."""

    inputs: tuple[FieldName, ...] = Field(
        default=(), description="Names of the inputs.", max_length=65, examples=[["document"]]
    )
    outputs: tuple[FieldName, ...] = Field(
        default=(),
        description="Names of the outputs, with those the strategy adds.",
        max_length=65,
        examples=[["reasoning", "kind"]],
    )
    spent: str = Field(
        default="",
        description="Dollars that its model calls have cost so far.",
        max_length=24,
        examples=["1.25"],
    )
    workers: int = Field(
        default=0, description="Workers that can host the Agent now.", ge=0, examples=[4]
    )


class Agent(Observation):
    """A DSPy program with a signature and a reasoning strategy, hosted on a Pool's workers."""

    metadata: ObjectMeta
    spec: AgentSpec
    status: AgentStatus = Field(default_factory=AgentStatus)
