"""What models cost and can do, where the models file does not say.

The table is the one that LiteLLM carries: it is kept up by many, and its version is the pinned
package's. It is read as a file, because importing the package takes seconds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from seedbed.crds.money import nanos

_FILE = "model_prices_and_context_window_backup.json"
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars for a million tokens, in and out.

    Attributes:
        cached: of a prompt's tokens that the provider had kept; None where it costs what others do.
        kept: of those that the provider keeps for later ones; None likewise.
    """

    prompt: int = 0
    completion: int = 0
    cached: int | None = None
    kept: int | None = None

    @classmethod
    def per_million(
        cls,
        prompt: str | Decimal,
        completion: str | Decimal,
        cached: str | Decimal | None = None,
        kept: str | Decimal | None = None,
    ) -> Price:
        """From dollars for a million tokens."""
        more = (None if each is None else nanos(each) for each in (cached, kept))
        return cls(nanos(prompt), nanos(completion), *more)

    def worst(self, prompt: int, completion: int) -> int:
        """Nano-dollars of a call at most: the provider may keep all of the prompt."""
        return self.of(prompt, completion, kept=prompt if (self.kept or 0) > self.prompt else 0)

    def of(self, prompt: int, completion: int, cached: int = 0, kept: int = 0) -> int:
        """Nano-dollars of a call, rounded up.

        Args:
            prompt: tokens, with those that were cached and are kept.
            completion: tokens.
            cached: tokens of the prompt that the provider had kept.
            kept: tokens of the prompt that it keeps now.
        """
        cheaper = cached * (self.prompt - (self.prompt if self.cached is None else self.cached))
        dearer = kept * ((self.prompt if self.kept is None else self.kept) - self.prompt)
        cost = prompt * self.prompt + completion * self.completion - cheaper + dearer
        return -(-cost // _MILLION)


@dataclass(frozen=True, slots=True)
class Known:
    """What the table says of a model; None where it says nothing."""

    price: Price | None = None
    context: int | None = None
    longest_answer: int | None = None
    tools: bool | None = None
    structured: bool | None = None


def known(model: str) -> Known:
    """What the table says of a model, named `provider/model` or `model`."""
    rows = _table()
    row = rows.get(model) or rows.get(model.partition("/")[2])
    if row is None:
        return Known()
    paid = row.get("input_cost_per_token"), row.get("output_cost_per_token", 0)
    caching = (row.get("cache_read_input_token_cost"), row.get("cache_creation_input_token_cost"))
    more = (None if each is None else _dollars(each) for each in caching)
    return Known(
        None if paid[0] is None else Price.per_million(*(_dollars(each) for each in paid), *more),
        _whole(row.get("max_input_tokens")),
        _whole(row.get("max_output_tokens")),
        row.get("supports_function_calling"),
        row.get("supports_response_schema"),
    )


def table_version() -> str:
    """Which table it is, for answers and reports."""
    try:
        return f"litellm-{version('litellm')}"
    except PackageNotFoundError:
        return "none"


def _dollars(per_token: Any) -> Decimal:
    return Decimal(str(per_token or 0)) * _MILLION


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    path = Path(spec.origin).parent / _FILE
    rows: Mapping[str, Mapping[str, Any]] = orjson.loads(path.read_bytes()) if path.exists() else {}
    return rows
