"""A frozen model with seeds: it answers, learns, obeys decisions and can be saved.

    model = attach(module, AttachSpec(layers=("blocks.*",)), Features.all_on())
    telemetry = model.train_epoch(data)
    model.apply(Rules().decide(telemetry, model.state))
    model.save("seeds.safetensors")

Decisions are applied between epochs. Serving may go on in another thread meanwhile: each pass takes its
alphas from a view of its own, see `layer.View`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError
from seedbed.kernels.blueprints import Blueprint
from seedbed.kernels.dispatch import use_triton
from seedbed.runtime.seeds import checkpoint, training
from seedbed.runtime.seeds.blueprints import AnyGrowth
from seedbed.runtime.seeds.custom import Custom
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.grafting import GraftSettings, Strategy
from seedbed.runtime.seeds.group import Alone
from seedbed.runtime.seeds.layer import PASS, OwnSeeds, Pass, SeededLayer, View
from seedbed.runtime.seeds.optimiser import SeedAdam
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.stages import EXTENDED, SHORT, Stage
from seedbed.runtime.seeds.state import STAY, Core, SeedState
from seedbed.runtime.seeds.telemetry import LayerSpan, Telemetry


class SeededModel:
    """See the module.

    Attributes:
        module: the torch model, its chosen layers wrapped.
        layers: those layers.
        spans: where each layer's seeds stand among all.
        blueprints: what may grow; the state's blueprint column counts them from 1.
        state: of all seeds; where a group trains the model, the same in every process.
        group: the processes that train it together.
        epoch: epochs behind us.
        form: hash of what the host looks like; a checkpoint fits hosts of the same form.
        blending: whether any seed is being grafted; known to the host.
        accuracies: on the held-out data after each of them.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: tuple[SeededLayer, ...],
        blueprints: tuple[AnyGrowth, ...],
        features: Features,
        grafting: GraftSettings,
        chance: int,
        group: Alone | None = None,
    ) -> None:
        self.group = group or Alone()
        self.module, self.layers, self.features = module, layers, features
        self.blueprints, self.grafting, self.chance = blueprints, grafting, chance
        spans, first = [], 0
        for layer in layers:
            spans.append(LayerSpan(layer.name, first, layer.seeds))
            first += layer.seeds
        self.spans = tuple(spans)
        self.device = next((p.device for p in module.parameters()), torch.device("cpu"))
        table = EXTENDED if features.extended_lifecycle else SHORT
        self.state = SeedState.dormant(first, self.device, table)
        self.alphas = torch.zeros(len(View), first, device=self.device)
        for layer, span in self.placed():
            layer.alphas = self.alphas[:, span.first : span.first + span.count]
        self.form = checkpoint.shape_of(module)
        self.optimiser = SeedAdam(layers, self.group)
        use_triton(allowed=features.triton_kernels)
        self.blending = False
        self.epoch = 0
        self.accuracies: tuple[float, ...] = ()
        self.checkpoints = 0
        self._told: Telemetry | None = None

    def placed(self) -> Iterator[tuple[SeededLayer, LayerSpan]]:
        """Each layer with its place among the seeds."""
        return zip(self.layers, self.spans, strict=True)

    def forward(self, *args: Any, route: Tensor | None = None, **kwargs: Any) -> Any:
        """What users get: the host, adapted by the seeds that act. No gradients.

        Args:
            args: the model's inputs.
            route: with routing by token, the seed of each token or sequence; -1 for none.
            kwargs: more inputs of the model.
        """
        with torch.inference_mode(), self.passing(Pass(View.SERVING, route)):
            return self.module(*args, **kwargs)

    @contextmanager
    def passing(self, what: Pass) -> Iterator[None]:
        """Forward passes inside of this are for that."""
        token = PASS.set(what)
        try:
            yield
        finally:
            PASS.reset(token)

    def train_epoch(self, data: training.Data) -> Telemetry:
        """Let the learning seeds learn from one pass over the data; then measure. See `training`."""
        self._told = training.epoch(self, data)
        return self._told

    def telemetry(self) -> Telemetry | None:
        """What the last epoch told; None before the first one."""
        return self._told

    def apply(self, decisions: Iterable[Decision]) -> list[Decision]:
        """Carry decisions out, all at once; returns those whose moves the table allows.

        A germinated seed gets its newborn weights; one that ended badly keeps none.

        Raises:
            InvalidError: a decision names an unknown blueprint or strategy; nothing is changed then.
        """
        asked = {decision.seed: decision for decision in decisions}
        planted = {
            seed: (self._blueprint(each.blueprint), self._strategy(each.strategy))
            for seed, each in asked.items()
            if each.target is Stage.GERMINATED
        }
        targets = torch.full((len(self.state),), STAY, dtype=torch.int32)
        for seed, decision in asked.items():
            targets[seed] = int(decision.target)
        moved = self.state.move(targets.to(self.device), self.epoch).cpu()
        done = [decision for seed, decision in asked.items() if bool(moved[seed])]
        for decision in done:
            if decision.seed in planted:
                self._sprout(decision, *planted[decision.seed])
        self._clear(self.state.members("ended"))
        self.refresh()
        return done

    def _blueprint(self, name: str) -> int:
        for at, growth in enumerate(self.blueprints):
            if growth.name == name:
                return at
        raise InvalidError("blueprint", f"{name!r} is none of the model's blueprints")

    def _strategy(self, name: str) -> Strategy:
        if name.upper() not in Strategy.__members__:
            expected = ", ".join(each.lower() for each in Strategy.__members__)
            raise InvalidError("strategy", f"expected one of {expected}")
        return Strategy[name.upper()] if self.features.grafting_strategies else Strategy.LINEAR

    @torch.no_grad()
    def _sprout(self, decision: Decision, blueprint: int, strategy: Strategy) -> None:
        """Give a seed its newborn weights; they depend on the seed, the epoch and `chance` alone."""
        growth = self.blueprints[blueprint]
        layer = next(layer for layer in self.layers if layer.name == decision.layer)
        if decision.slot in layer.held:
            chance = (self.chance * 1_000_003 + decision.seed) * 1_000_003 + self.epoch
            rows, pair = layer.down.shape[1], layer.pair(decision.slot)
            down, up = growth.sprout(layer.width, rows, pair, chance % 2**63)
            row = decision.slot - layer.held.start
            whole = growth.blueprint is Blueprint.USER
            layer.down[row] = down.to(layer.down) if whole else layer.legible(down.to(layer.down))
            layer.up[row] = up.to(layer.up)
        seed = torch.zeros(len(self.state), dtype=torch.bool, device=self.device)
        seed[decision.seed] = True
        self.state.plant(seed, blueprint + 1, int(strategy))

    @torch.no_grad()
    def _clear(self, seeds: Tensor) -> None:
        """Leave no weights of these seeds."""
        for layer, span in self.placed():
            mine = seeds[layer.here(span), None, None]
            layer.down.masked_fill_(mine, 0.0)
            layer.up.masked_fill_(mine, 0.0)

    def refresh(self) -> None:
        """Tell the layers what the state says. Waits for the device; done between epochs."""
        self.blend()
        self.blending = bool(self.state.at(Stage.GRAFTING).any())
        planted = self.state.core[:, Core.BLUEPRINT].long()
        kinds = torch.tensor([0, *(int(g.blueprint) for g in self.blueprints)])
        ranks = torch.tensor([0, *(g.rank for g in self.blueprints)])
        kinds, ranks = kinds.to(self.device, torch.int32), ranks.to(self.device, torch.int32)
        for layer, span in self.placed():
            mine = planted[layer.here(span)]
            layer.blueprint.copy_(kinds[mine])
            layer.rank.copy_(ranks[mine])
            active = self.state.members("acting")[span.first : span.first + span.count]
            learning = self.state.members("learning")[span.first : span.first + span.count]
            fossils = self.state.at(Stage.FOSSILISED)[span.first : span.first + span.count]
            masks = (active, active | learning, fossils)
            awake = (active | learning)[layer.held.start : layer.held.stop]
            layer.own = self._own(layer, torch.where(awake, mine, 0))
            layer.acts = [bool(mask.any()) for mask in masks]
        self.optimiser.follow(self.state, self.spans)

    def _own(self, layer: SeededLayer, planted: Tensor) -> tuple[OwnSeeds, ...]:
        """The seeds here that grew from users' blueprints and are awake, those of one form together."""
        found = []
        for number, growth in enumerate(self.blueprints, start=1):
            if isinstance(growth, Custom):
                rows = (planted == number).nonzero().flatten()
                slots = (rows + layer.held.start).tolist()
                pairs = [layer.pair(slot) for slot in slots]
                for pair in {each for each in pairs if each[1]}:
                    alike = torch.tensor([each == pair for each in pairs], device=rows.device)
                    found.append(layer.own_seeds(growth.form(pair), pair, rows[alike]))
        return tuple(found)

    def blend(self) -> None:
        """Bring the state's alphas to the layers, in place; does not wait for the device."""
        self.alphas[View.SERVING] = self.state.alpha
        self.alphas[View.TRAINING] = self.state.training_alpha()
        fossil = self.state.stage == Stage.FOSSILISED
        self.alphas[View.WITHOUT] = torch.where(fossil, self.state.alpha, 0.0)

    def parameters(self) -> tuple[int, int]:
        """How many numbers the host has, and how many the seeds that act or try have added."""
        mine = {id(p) for layer in self.layers for p in (layer.down, layer.up)}
        host = sum(p.numel() for p in self.module.parameters() if id(p) not in mine)
        planted = self.state.core[:, Core.BLUEPRINT].cpu()
        held = (self.state.members("acting") | self.state.members("active")).cpu()
        added = 0
        for layer, span in self.placed():
            here = slice(span.first, span.first + span.count)
            slots = held[here].nonzero().flatten()
            widths, kinds = layer.widths()[slots].tolist(), planted[here][slots].tolist()
            added += sum(
                self.blueprints[kind - 1].parameters(width, layer.pair(slot))
                for slot, kind, width in zip(slots.tolist(), kinds, widths, strict=True)
            )
        return host, added

    def save(self, path: str | Path, extra: Mapping[str, str] | None = None) -> None:
        """Write everything that changes to one safetensors file. See `checkpoint`."""
        checkpoint.save(self, Path(path), extra or {})

    def load(self, path: str | Path) -> dict[str, str]:
        """Take a saved state over; returns what `extra` was."""
        return checkpoint.load(self, Path(path))
