"""A user's own blueprint: an entry point that gives a torch module, of which each seed has its parameters.

    def gated(given: int, made: int) -> nn.Module: ...

It is called with the number of columns that a seed reads and of those that it writes, which are the same
but where seeds read a layer's input. The module makes (rows, made) of (rows, given); what it makes of a
row may depend on that row alone. What it gives is added, times alpha.

A seed's parameters lie one after another in the rows of its slabs `down` and `up`, so that stages,
checkpoints, shards and the optimiser treat it as any other seed. All seeds of a blueprint run in one call,
see `kernels.custom`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError
from seedbed.kernels.blueprints import Blueprint
from seedbed.runtime.seeds.loading import found

Pair = tuple[int, int]
"""Columns that a seed reads, and columns that it writes."""
_LENT = threading.Lock()
"""Torch lends a module the parameters of a call while it runs, and serving runs beside training."""
_ROWS, _SEEDS = 3, 2
_CLOSE = 1e-4


class BlueprintError(InvalidError):
    """A user's blueprint is none. The field names it."""

    code = "blueprint"

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f"blueprint {name}", expected)
        self.name = name


@dataclass(frozen=True, slots=True)
class Form:
    """A blueprint for seeds of certain columns.

    Attributes:
        module: as the entry point gave it; its own parameters are not used.
        shapes: of the parameters of one seed, by name.
        size: how many numbers they are.
    """

    module: nn.Module
    shapes: Mapping[str, torch.Size]
    size: int

    def __call__(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """What one seed makes of its rows."""
        with _LENT:
            made: Tensor = torch.func.functional_call(self.module, parameters, (x,))
        return made

    def rows(self, width: int) -> int:
        """Rows of two slabs of a width that hold the parameters."""
        return -(-self.size // (2 * width))

    def unpacked(self, down: Tensor, up: Tensor) -> dict[str, Tensor]:
        """The parameters of G seeds from their slabs (G, R, w), each with a first dimension of G."""
        rows = self.rows(down.shape[2])
        flat = torch.cat((down[:, :rows].flatten(1), up[:, :rows].flatten(1)), dim=1)
        parts = torch.split(
            flat[:, : self.size], [shape.numel() for shape in self.shapes.values()], dim=1
        )
        return {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def packed(
        self, parameters: Mapping[str, Tensor], width: int, rows: int
    ) -> tuple[Tensor, Tensor]:
        """The slabs (rows, width) of one seed with these parameters."""
        used = self.rows(width)
        flat = torch.zeros(2 * used * width)
        flat[: self.size] = torch.cat([parameters[name].reshape(-1) for name in self.shapes])
        slabs = torch.zeros(2, rows, width)
        slabs[:, :used] = flat.view(2, used, width)
        return slabs[0], slabs[1]


@dataclass(frozen=True, slots=True)
class Custom:
    """A user's blueprint of a specification.

    Attributes:
        name: what decisions call it.
        entry: `package.module:attribute`.
        arguments: more arguments of the entry point, by name.
    """

    name: str
    entry: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    _forms: dict[Pair, Form] = field(default_factory=dict, compare=False, repr=False)

    kind = "custom"
    rank = 0
    blueprint = Blueprint.USER

    def form(self, pair: Pair) -> Form:
        """The blueprint for seeds of certain columns, tried out when it is first asked for.

        Raises:
            BlueprintError: it is none; says what was expected.
        """
        if pair not in self._forms:
            self._forms[pair] = _tried(self.name, self._made(pair, 0), pair)
        return self._forms[pair]

    def _made(self, pair: Pair, chance: int) -> nn.Module:
        try:
            make = found(self.entry, "entry")
        except InvalidError as error:
            raise BlueprintError(self.name, error.expected) from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chance)
            try:
                module = make(*pair, **self.arguments)
            except Exception as error:
                # The user's own code, as in `loading`.
                told = f"failed for {_columns(pair)} with {type(error).__name__}: {error}"
                raise BlueprintError(self.name, told) from error
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise BlueprintError(self.name, f"gave a {kind}, expected a torch module")
        return module.eval()

    def rows(self, width: int, pair: Pair) -> int:
        """Rows of `down` and `up` that such a seed needs."""
        return self.form(pair).rows(width)

    def parameters(self, width: int, pair: Pair) -> int:
        """How many numbers such a seed learns."""
        del width
        if not pair[1]:
            return 0
        return self.form(pair).size

    def sprout(self, width: int, rows: int, pair: Pair, chance: int) -> tuple[Tensor, Tensor]:
        """Parameters of a new seed, as the module is born; the same for the same `chance`."""
        if not pair[1]:
            return torch.zeros(rows, width), torch.zeros(rows, width)
        born = dict(self._made(pair, chance).named_parameters())
        with torch.no_grad():
            return self.form(pair).packed(born, width, rows)

    def signature(self) -> dict[str, str]:
        """A hash of the parameters' names and shapes, by the columns asked for so far."""
        return {
            _columns(pair): hashlib.sha256(repr(list(form.shapes.items())).encode()).hexdigest()[
                :16
            ]
            for pair, form in sorted(self._forms.items())
        }


def _columns(pair: Pair) -> str:
    return f"{pair[0]} to {pair[1]} columns"


def _tried(name: str, module: nn.Module, pair: Pair) -> Form:
    """Run it as it will be run: two seeds at once, with gradients, on the CPU."""
    module.requires_grad_(requires_grad=False)
    if left := [each for each, _ in module.named_buffers()]:
        expected = f"has the buffer {left[0]}, which no checkpoint keeps; expected parameters only"
        raise BlueprintError(name, expected)
    born = {each: one.detach() for each, one in module.named_parameters()}
    if not born or not all(one.is_floating_point() for one in born.values()):
        raise BlueprintError(name, "expected at least one parameter, all of floating point")
    form = Form(
        module,
        {each: one.shape for each, one in born.items()},
        sum(one.numel() for one in born.values()),
    )
    # No zeros: what a row is made of shows only where nothing is multiplied away.
    dice = torch.Generator().manual_seed(0)
    several = {
        each: one.float() + torch.randn(_SEEDS, *one.shape, generator=dice) / 8
        for each, one in born.items()
    }
    x = torch.randn(_SEEDS, _ROWS, pair[0], generator=dice)
    try:
        made = torch.func.vmap(form)(several, x)
        expected = f"for {_columns(pair)} expected (rows, {pair[1]}), got {_shape(made)}"
        if not isinstance(made, Tensor) or made.shape != (_SEEDS, _ROWS, pair[1]):
            raise BlueprintError(name, expected)
        first = torch.func.vmap(form)(several, x[:, :1])
        torch.func.vmap(torch.func.grad(lambda own, rows: form(own, rows).sum()))(several, x)
    except BlueprintError:
        raise
    except Exception as error:
        # The user's own code once more, and what torch says of it.
        told = " ".join(str(error).split())
        raise BlueprintError(
            name,
            "expected operations that torch.func can vectorise and differentiate, got "
            f"{type(error).__name__}: {told:.300}",
        ) from error
    if not torch.allclose(made[:, :1], first, rtol=_CLOSE, atol=_CLOSE):
        expected = "expected that what it makes of a row depends on that row alone"
        raise BlueprintError(name, expected)
    return form


def _shape(made: object) -> str:
    return str(tuple(made.shape[1:])) if isinstance(made, Tensor) else type(made).__name__
