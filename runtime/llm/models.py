"""The models file: which models the service serves, under which names, from where.

    default: careful
    models:
      - {name: smollm2, provider: local}
      - {name: careful, provider: litellm, model: openai/gpt-4o-mini, apiKeyEnv: OPENAI_KEY}

Keys never stand in it: `apiKeyEnv` names an environment variable, which in a cluster comes from a
Secret. Without a file there is one local model, `smollm2`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from seedbed.crds.base import Model
from seedbed.crds.errors import InvalidError

DEFAULT = "default"
"""The name that always means the file's default model."""


class ModelEntry(Model):
    """One model."""

    name: str = Field(min_length=1, max_length=128, description="What callers ask for.")
    provider: Literal["local", "litellm"] = Field(
        default="local", description="In this process, or any provider LiteLLM knows."
    )
    model: str = Field(
        default="smollm2",
        min_length=1,
        description="local: `smollm2` or the path of a GGUF file. litellm: `provider/model`.",
    )
    api_base: str | None = Field(default=None, description="Address, where not the provider's own.")
    api_key_env: str | None = Field(
        default=None, description="Environment variable that holds the key."
    )
    threads: int = Field(default=1, ge=1, le=256, description="local: threads that compute.")
    context_length: int = Field(
        default=4096, ge=256, le=1_000_000, description="local: tokens of prompt and answer."
    )
    queue_limit: int = Field(
        default=64, ge=1, le=10_000, description="local: requests that may wait; more are refused."
    )


class Models(Model):
    """All models, and which of them answers to `default`."""

    models: tuple[ModelEntry, ...] = Field(min_length=1)
    default: str

    @model_validator(mode="after")
    def _names_fit(self) -> Models:
        names = [entry.name for entry in self.models]
        if len(set(names)) != len(names):
            raise ValueError("each name may stand once")
        if self.default not in names:
            raise ValueError(f"default {self.default!r} is none of {', '.join(names)}")
        if DEFAULT in names and self.default != DEFAULT:
            raise ValueError(f"a model named {DEFAULT!r} has to be the default")
        return self


def built_in() -> Models:
    """What is served without a models file."""
    return Models(models=(ModelEntry(name="smollm2"),), default="smollm2")


def load(path: Path | None) -> Models:
    """The models file, or what is built in where there is none.

    Raises:
        InvalidError: naming the file and its first wrong field.
    """
    if path is None:
        return built_in()
    try:
        return Models.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidError(f"{path}: {where}".rstrip(": "), first["msg"]) from error
    except (OSError, yaml.YAMLError) as error:
        raise InvalidError(str(path), f"cannot be read as YAML: {error}") from error
