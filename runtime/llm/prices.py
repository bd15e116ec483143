"""What models cost and can do, where the models file does not say.

The table is the one that LiteLLM carries: it is kept up by many, and its version is the pinned
package's. It is read as a file, because importing the package takes seconds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from seedbed.crds.money import nanos
from seedbed.runtime.llm.media import Sense

_FILE = "model_prices_and_context_window_backup.json"
_MILLION = 1_000_000
IMAGE_TOKENS = 5_000
"""Tokens that a picture is at most, with nearly all models: 1,445 with GPT-4o, 3,779 with GPT-4.1 nano,
1,600 to 4,784 with Claude's."""
_DEAR_IMAGES = {"gpt-4o-mini": 2_833 + 8 * 5_667}
"""Where it is more: eight tiles of 512 by 512, the most that OpenAI cuts a picture into."""
_SENSES: Mapping[Sense, str] = {"vision": "supports_vision", "audio": "supports_audio_input"}
BATCH_FACTOR = Decimal("0.5")
"""Of a price, what a provider's batch costs where the table says nothing; a part of the table's version."""


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars for a million tokens, in and out.

    Attributes:
        cached: of a prompt's tokens that the provider had kept; None where it costs what others do.
        kept: of those that the provider keeps for later ones; None likewise.
        audio: of those that are sound; None likewise.
    """

    prompt: int = 0
    completion: int = 0
    cached: int | None = None
    kept: int | None = None
    audio: int | None = None

    @classmethod
    def per_million(
        cls,
        prompt: str | Decimal,
        completion: str | Decimal,
        cached: str | Decimal | None = None,
        kept: str | Decimal | None = None,
        audio: str | Decimal | None = None,
    ) -> Price:
        """From dollars for a million tokens."""
        more = (None if each is None else nanos(each) for each in (cached, kept, audio))
        return cls(nanos(prompt), nanos(completion), *more)

    def times(self, factor: Decimal) -> Price:
        """A share of it, rounded up."""

        def share(amount: int) -> int:
            return int((amount * factor).to_integral_value(ROUND_CEILING))

        more = (
            None if each is None else share(each) for each in (self.cached, self.kept, self.audio)
        )
        return Price(share(self.prompt), share(self.completion), *more)

    def worst(self, prompt: int, completion: int, audio: int = 0) -> int:
        """Nano-dollars of a call at most: the provider may keep all of the prompt."""
        kept = prompt if (self.kept or 0) > self.prompt else 0
        return self.of(prompt, completion, kept=kept, audio=audio)

    def of(
        self, prompt: int, completion: int, cached: int = 0, kept: int = 0, audio: int = 0
    ) -> int:
        """Nano-dollars of a call, rounded up.

        Args:
            prompt: tokens, with those that were cached and are kept.
            completion: tokens.
            cached: tokens of the prompt that the provider had kept.
            kept: tokens of the prompt that it keeps now.
            audio: tokens of the prompt that are sound.
        """
        cheaper = cached * (self.prompt - (self.prompt if self.cached is None else self.cached))
        dearer = kept * ((self.prompt if self.kept is None else self.kept) - self.prompt)
        dearer += audio * ((self.prompt if self.audio is None else self.audio) - self.prompt)
        cost = prompt * self.prompt + completion * self.completion - cheaper + dearer
        return -(-cost // _MILLION)


@dataclass(frozen=True, slots=True)
class Known:
    """What the table says of a model; None where it says nothing.

    Attributes:
        batch: the price of a line of the provider's batch.
    """

    price: Price | None = None
    context: int | None = None
    longest_answer: int | None = None
    tools: bool | None = None
    structured: bool | None = None
    batch: Price | None = None
    senses: frozenset[Sense] = frozenset()


def known(model: str) -> Known:
    """What the table says of a model, named `provider/model` or `model`."""
    rows = _table()
    row = rows.get(model) or rows.get(model.partition("/")[2])
    if row is None:
        return Known()
    paid = row.get("input_cost_per_token"), row.get("output_cost_per_token", 0)
    caching = (row.get("cache_read_input_token_cost"), row.get("cache_creation_input_token_cost"))
    sound = row.get("input_cost_per_audio_token")
    of_sound = None if sound is None else _dollars(sound)
    more = (*(None if each is None else _dollars(each) for each in caching), of_sound)
    less = (row.get("input_cost_per_token_batches"), row.get("output_cost_per_token_batches"))
    asked, answered = (_dollars(each) for each in less)
    return Known(
        None if paid[0] is None else Price.per_million(*(_dollars(each) for each in paid), *more),
        _whole(row.get("max_input_tokens")),
        _whole(row.get("max_output_tokens")),
        row.get("supports_function_calling"),
        row.get("supports_response_schema"),
        None if None in less else Price.per_million(asked, answered, audio=of_sound),
        frozenset(sense for sense, name in _SENSES.items() if row.get(name) is True),
    )


def image_tokens(model: str) -> int:
    """Tokens that a picture is at most with a model, named `provider/model` or `model`."""
    name = model.rpartition("/")[2]
    return next((most for of, most in _DEAR_IMAGES.items() if name.startswith(of)), IMAGE_TOKENS)


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
