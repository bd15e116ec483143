"""Adam for seeds: one update of all learning seeds of a layer at once, the others untouched.

Moments are held only for seeds that learn, so a layer of 10,000 seeds of which 3 learn costs 3. See
Kingma and Ba, 2014, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds.group import Alone
from seedbed.runtime.seeds.layer import SeededLayer
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Graft, SeedState
from seedbed.runtime.seeds.telemetry import LayerSpan

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class _Moments:
    """Adam's state of the stepping seeds of one layer, of those whose weights are here.

    Attributes:
        seeds: their numbers in the layer.
    """

    def __init__(self, layer: SeededLayer) -> None:
        self.layer = layer
        device = layer.down.device
        self.seeds = torch.zeros(0, dtype=torch.int64, device=device)
        self.steps = torch.zeros(0, device=device)
        shape = (0, *layer.down.shape[1:])
        self.held = {
            name: torch.zeros(shape, device=device)
            for name in ("down.first", "down.second", "up.first", "up.second")
        }

    def follow(self, seeds: Tensor) -> None:
        """Hold moments of these seeds; those that learnt before keep theirs."""
        count = self.layer.seeds
        where = torch.full((count,), -1, dtype=torch.int64, device=seeds.device)
        where[self.seeds] = torch.arange(len(self.seeds), device=seeds.device)
        source = where[seeds]
        stays = source >= 0
        for name, old in self.held.items():
            new = torch.zeros((len(seeds), *old.shape[1:]), device=seeds.device)
            new[stays] = old[source[stays]]
            self.held[name] = new
        steps = torch.zeros(len(seeds), device=seeds.device)
        steps[stays] = self.steps[source[stays]]
        self.seeds, self.steps = seeds, steps


class SeedAdam:
    """The optimiser of a model's seeds."""

    def __init__(self, layers: Sequence[SeededLayer], group: Alone | None = None) -> None:
        self._moments = [_Moments(layer) for layer in layers]
        self._group = group or Alone()
        self.stepping = False
        """Whether a training step concerns any seed, here or in another shard."""

    def follow(self, state: SeedState, spans: Sequence[LayerSpan]) -> None:
        """Step with the seeds whose stage says so, from the next step on."""
        stepping = state.members("stepping")
        self.stepping = bool(stepping.any())
        for moments, span in zip(self._moments, spans, strict=True):
            mine = stepping[moments.layer.here(span)].nonzero().flatten()
            moments.follow(mine + moments.layer.held.start)

    @torch.no_grad()
    def step(
        self, state: SeedState, spans: Sequence[LayerSpan], rate: float, fine_rate: float
    ) -> None:
        """One update; notes each seed's gradient norm, and skips seeds whose norm is not finite.

        Seeds that are being blended in are watched only: what has shown its worth is what is blended.
        Their norm is divided by their alpha, which it would follow otherwise.

        Args:
            state: takes the norms; says who is fine-tuning.
            spans: of the layers.
            rate: learning rate.
            fine_rate: the same in fine-tuning.
        """
        busy = [
            (moments, span.first, _gradients(moments))
            for moments, span in zip(self._moments, spans, strict=True)
            if len(moments.seeds)
        ]
        if self._group.replicated:
            self._group.add([each for _, _, found in busy for each in found.values()])
        for moments, first, gradients in busy:
            self._update(moments, gradients, state, first, (rate, fine_rate))
        for moments in self._moments:  # also of layers whose seeds act and do not step
            moments.layer.down.grad = moments.layer.up.grad = None
        if self._group.sharded:
            self._share_norms(state, spans)

    def _share_norms(self, state: SeedState, spans: Sequence[LayerSpan]) -> None:
        """Every process learns the norms of the seeds whose weights are elsewhere."""
        stepping, here = state.members("stepping"), torch.zeros_like(state.stage, dtype=torch.bool)
        for moments, span in zip(self._moments, spans, strict=True):
            here[moments.layer.here(span)] = True
        old = state.graft[:, Graft.GRADIENT]
        norms = torch.where(stepping & here, old, 0.0)
        self._group.add([norms])
        state.graft[:, Graft.GRADIENT] = torch.where(stepping, norms, old)

    def _update(
        self,
        moments: _Moments,
        gradients: dict[str, Tensor],
        state: SeedState,
        first: int,
        rates: tuple[float, float],
    ) -> None:
        layer, seeds = moments.layer, moments.seeds
        rows = seeds - layer.held.start
        squares = sum(g.square().sum(dim=(1, 2)) for g in gradients.values())
        norm = torch.as_tensor(squares).sqrt()
        stage, alpha = state.stage[first + seeds], state.alpha[first + seeds]
        blended = stage == Stage.GRAFTING
        whole = torch.where(blended & (alpha > 0), alpha, 1.0)
        state.graft[first + seeds, Graft.GRADIENT] = norm / whole
        sound = torch.isfinite(norm) & ~blended
        moments.steps += sound
        rate = torch.where(stage == Stage.FINE_TUNING, rates[1], rates[0]) * sound
        for name, parameter in (("down", layer.down), ("up", layer.up)):
            gradient = torch.where(sound[:, None, None], gradients[name], 0.0)
            m, v = moments.held[f"{name}.first"], moments.held[f"{name}.second"]
            m.lerp_(gradient, 1 - BETA_1)
            v.lerp_(gradient.square(), 1 - BETA_2)
            steps = moments.steps.clamp(min=1)[:, None, None]
            size = (v / (1 - BETA_2**steps)).sqrt() + EPSILON
            change = rate[:, None, None] * (m / (1 - BETA_1**steps)) / size
            parameter.index_add_(0, rows, -change.to(parameter.dtype))

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint: what is held, by the layer's number."""
        return {
            f"{at}.{name}": tensor
            for at, moments in enumerate(self._moments)
            for name, tensor in (
                ("seeds", moments.seeds),
                ("steps", moments.steps),
                *moments.held.items(),
            )
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the moments of a checkpoint over.

        Raises:
            InvalidError: one is missing or of another form.
        """
        for at, moments in enumerate(self._moments):
            seeds = tensors.get(f"{at}.seeds")
            for name, mine in (("steps", moments.steps), *moments.held.items()):
                theirs = tensors.get(f"{at}.{name}")
                if (
                    seeds is None
                    or theirs is None
                    or theirs.shape != (len(seeds), *mine.shape[1:])
                    or theirs.dtype != mine.dtype
                ):
                    raise InvalidError(f"optimiser.{at}.{name}", "does not fit this model")
        for at, moments in enumerate(self._moments):
            device, held = moments.seeds.device, moments.layer.held
            seeds = tensors[f"{at}.seeds"]
            mine = (seeds >= held.start) & (seeds < held.stop)
            moments.seeds = seeds[mine].to(device)
            moments.steps = tensors[f"{at}.steps"][mine].to(device)
            moments.held = {name: tensors[f"{at}.{name}"][mine].to(device) for name in moments.held}


def _gradients(moments: _Moments) -> dict[str, Tensor]:
    """What the last step says of the seeds that are held, for `down` and `up`."""
    layer = moments.layer
    rows = moments.seeds - layer.held.start
    down = layer.legible_rows(_rows(layer.down.grad, layer.down, rows), rows)
    return {"down": down, "up": _rows(layer.up.grad, layer.up, rows)}


def _rows(gradient: Tensor | None, parameter: Tensor, seeds: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros((len(seeds), *parameter.shape[1:]), device=parameter.device)
    return gradient[seeds].float()
