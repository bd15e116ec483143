"""A learnt policy: a small network over the layers that says where a seed would bring most.

It decides only where to germinate and whether to; by which rules seeds advance and are taken back is the
same for every policy. It learns from records of earlier germinations, and it is used only where it beat
the rules in replay: on records that it did not learn from, by inverse propensity, with a bootstrap lower
bound above zero. Everything else, no network, few records, the flag off, means the rules.

The value of a policy in replay is the self-normalised estimate of Swaminathan and Joachims, 2015: of the
records in which it would have chosen the same layer, each weighs one over the probability with which that
layer had been chosen. So records need some chance in them: see `Exploring`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.policy import Limits, Policy
from seedbed.runtime.seeds.rules import Rules, need
from seedbed.runtime.seeds.stages import ACTIVE, FAILURES, Stage
from seedbed.runtime.seeds.state import Core, Metric, SeedState
from seedbed.runtime.seeds.telemetry import Telemetry

FEATURES = 8
LEAST_RECORDS = 30
_HIDDEN, _ROUNDS, _STEPS = 16, 2, 150
_RESAMPLES, _LOWER = 1000, 0.05
_HELD_OUT = 3
"""Every so manieth record is for the replay."""
FORMAT = "seedbed.seed-policy/1"


@dataclass(frozen=True, slots=True)
class Germination:
    """A germination of the past, and what came of it.

    Attributes:
        layers: (layers, FEATURES) what was known then, see `seen`.
        layer: where the seed germinated.
        propensity: with which probability that layer was chosen.
        gain: accuracy that it brought; 0 where the try failed.
    """

    layers: Tensor
    layer: int
    propensity: float
    gain: float


@dataclass(frozen=True, slots=True)
class Replay:
    """How two policies compare on records of the past.

    Attributes:
        learnt: mean gain that the network's choices would have brought.
        rules: the same of the rules' choices.
        lower: lower bound of the difference, at 95 %.
        records: how many germinations were replayed.
    """

    learnt: float
    rules: float
    lower: float
    records: int

    @property
    def better(self) -> bool:
        """Whether the network may decide."""
        return self.records >= LEAST_RECORDS and self.lower > 0.0


def seen(telemetry: Telemetry, state: SeedState, limits: Limits) -> Tensor:
    """What a policy knows of each layer: (layers, FEATURES), all from 0 to 1.

    Greatest need, mean need, mean dead share, mean correlation, shares of sleeping, fossil and failed
    slots, and the layer's place from input to output.
    """
    wants = need(telemetry.metrics, limits)
    metrics = torch.nan_to_num(telemetry.metrics)
    rows = []
    for at, span in enumerate(telemetry.layers):
        here = slice(span.first, span.first + span.count)
        stage = state.stage[here]
        rows.append(
            torch.stack(
                [
                    wants[here].max(),
                    wants[here].mean(),
                    metrics[here, Metric.DEAD].mean(),
                    metrics[here, Metric.CORRELATION].abs().mean(),
                    (stage == Stage.DORMANT).float().mean(),
                    (stage == Stage.FOSSILISED).float().mean(),
                    (state.core[here, Core.FAILURES] > 0).float().mean(),
                    torch.tensor(at / max(len(telemetry.layers) - 1, 1)),
                ]
            )
        )
    return torch.stack(rows)


class LayerNetwork(nn.Module):
    """Predicts the gain of a seed in each layer; layers hear from their neighbours before and behind."""

    def __init__(self, chance: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chance)
            self.enter = nn.Linear(FEATURES, _HIDDEN)
            self.own = nn.Linear(_HIDDEN, _HIDDEN)
            self.before = nn.Linear(_HIDDEN, _HIDDEN, bias=False)
            self.behind = nn.Linear(_HIDDEN, _HIDDEN, bias=False)
            self.leave = nn.Linear(_HIDDEN, 1)

    def forward(self, layers: Tensor) -> Tensor:
        """Predicted gains (..., layers) of what is known of them (..., layers, FEATURES)."""
        h = torch.relu(self.enter(layers))
        for _ in range(_ROUNDS):
            nothing = torch.zeros_like(h[..., :1, :])
            before = torch.cat((nothing, h[..., :-1, :]), dim=-2)
            behind = torch.cat((h[..., 1:, :], nothing), dim=-2)
            h = h + torch.relu(self.own(h) + self.before(before) + self.behind(behind))
        found: Tensor = self.leave(h).squeeze(-1)
        return found


@dataclass(frozen=True, slots=True)
class Learnt(Rules):
    """The rules, but for where to germinate."""

    network: LayerNetwork = field(default_factory=LayerNetwork)

    def wanted(self, telemetry: Telemetry, state: SeedState) -> tuple[Tensor, str]:
        """The predicted gain of each slot's layer, and nothing where no gain is predicted.

        Within a layer the neediest slot comes first.
        """
        with torch.inference_mode():
            gains = self.network(seen(telemetry, state, self.limits))
        found = need(telemetry.metrics, self.limits) * 1e-6
        for span, gain in zip(telemetry.layers, gains.tolist(), strict=True):
            here = slice(span.first, span.first + span.count)
            found[here] = found[here] + gain if gain > 0 else -torch.inf
        return found, "the network expects a gain of {score:.4f} here"


@dataclass(frozen=True, slots=True)
class Exploring(Rules):
    """The rules, but for a share of the boundaries, at which a layer is drawn: so that records can tell.

    Attributes:
        share: of boundaries at which the layer is drawn.
        chance: with the epoch, decides what is drawn.
    """

    share: float = 0.3
    chance: int = 0

    def wanted(self, telemetry: Telemetry, state: SeedState) -> tuple[Tensor, str]:
        """The need, and at some boundaries only that of one layer."""
        wants = need(telemetry.metrics, self.limits)
        sleeping = _sleeping(telemetry, state)
        draw = torch.rand(2, generator=self._generator(telemetry.epoch))
        if not sleeping or float(draw[0]) >= self.share:
            return wants, "need {score:.3f} is the greatest asleep"
        span = telemetry.layers[sleeping[int(float(draw[1]) * len(sleeping))]]
        only = torch.full_like(wants, -torch.inf)
        here = slice(span.first, span.first + span.count)
        only[here] = wants[here]
        return only, "drawn to explore, need {score:.3f}"

    def propensity(self, telemetry: Telemetry, state: SeedState, layer: int) -> float:
        """The probability with which a layer is chosen at this boundary."""
        sleeping = _sleeping(telemetry, state)
        wants = need(telemetry.metrics, self.limits)
        wants = torch.where(state.at(Stage.DORMANT), wants, -torch.inf)
        best = int(torch.sort(wants, descending=True, stable=True).indices[0])
        span = telemetry.layers[layer]
        greedy = span.first <= best < span.first + span.count
        drawn = self.share / len(sleeping) if layer in sleeping else 0.0
        return drawn + (1.0 - self.share) * greedy

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.chance * 1_000_003 + epoch)


def _sleeping(telemetry: Telemetry, state: SeedState) -> list[int]:
    """Layers with a slot that sleeps."""
    asleep = state.at(Stage.DORMANT)
    return [
        at
        for at, span in enumerate(telemetry.layers)
        if bool(asleep[span.first : span.first + span.count].any())
    ]


@dataclass(slots=True)
class Recorder:
    """Writes down what came of each germination of an exploring policy.

    Call `watch` with what the model carried out, at each boundary.
    """

    policy: Exploring
    records: list[Germination] = field(default_factory=list)
    _open: dict[int, tuple[Tensor, int, float]] = field(default_factory=dict)

    def watch(self, telemetry: Telemetry, before: SeedState, after: SeedState) -> None:
        """Take a boundary in: a copy of the state that was decided by, and the state afterwards."""
        germinated = before.at(Stage.DORMANT) & after.at(Stage.GERMINATED)
        for seed in germinated.nonzero().flatten().tolist():
            layer = next(
                at
                for at, span in enumerate(telemetry.layers)
                if span.first <= seed < span.first + span.count
            )
            chance = self.policy.propensity(telemetry, before, layer)
            known = seen(telemetry, before, self.policy.limits)
            self._open[seed] = known, layer, chance
        for seed in list(self._open):
            stage = Stage(int(after.stage[seed]))
            if stage in ACTIVE:
                continue
            known, layer, chance = self._open.pop(seed)
            gain = float(after.core[seed, Core.SCORE]) * 1e-6 if stage is Stage.FOSSILISED else 0.0
            if stage in FAILURES or stage is Stage.FOSSILISED:
                self.records.append(Germination(known, layer, chance, gain))


def fit(records: Sequence[Germination], chance: int = 0) -> tuple[LayerNetwork, Replay]:
    """Learn from two thirds of the records and replay the rest.

    Raises:
        InvalidError: the records are of models with different numbers of layers, or there are none.
    """
    if not records or len({len(one.layers) for one in records}) > 1:
        raise InvalidError("records", "expected germinations of one model")
    learnt_from = [one for at, one in enumerate(records) if at % _HELD_OUT]
    network = LayerNetwork(chance)
    if learnt_from:
        _learn(network, learnt_from)
    return network, replay(network, [one for at, one in enumerate(records) if at % _HELD_OUT == 0])


def _learn(network: LayerNetwork, records: Sequence[Germination]) -> None:
    layers = torch.stack([one.layers for one in records])
    chosen = torch.tensor([one.layer for one in records])
    gains = torch.tensor([one.gain for one in records])
    scale = gains.abs().mean().clamp(min=1e-6)  # so that the step size fits gains of any size
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        predicted = network(layers).gather(1, chosen[:, None]).squeeze(1)
        torch.autograd.backward((predicted / scale - gains / scale).square().mean())
        optimiser.step()


def replay(network: LayerNetwork, records: Sequence[Germination], chance: int = 0) -> Replay:
    """What both policies' choices would have brought."""
    if not records:
        return Replay(0.0, 0.0, 0.0, 0)
    layers = torch.stack([one.layers for one in records])
    chosen = torch.tensor([one.layer for one in records])
    gains = torch.tensor([one.gain for one in records])
    weight = 1.0 / torch.tensor([one.propensity for one in records])
    can = layers[:, :, 4] > 0  # a slot sleeps there
    with torch.inference_mode():
        by_network = torch.where(can, network(layers), -torch.inf).argmax(dim=1)
    by_rules = torch.where(can, layers[:, :, 0], -torch.inf).argmax(dim=1)
    weights = torch.stack([(choice == chosen) * weight for choice in (by_network, by_rules)])

    def value(rows: Tensor) -> Tensor:
        w = weights[:, rows]
        found: Tensor = (w * gains[rows]).sum(-1) / w.sum(-1).clamp(min=1e-9)
        return found

    generator = torch.Generator().manual_seed(chance)
    drawn = torch.randint(0, len(records), (_RESAMPLES, len(records)), generator=generator)
    of_network, of_rules = value(drawn)
    lower = float(torch.quantile(of_network - of_rules, _LOWER))
    learnt, rules = value(torch.arange(len(records))).tolist()
    return Replay(learnt, rules, lower, len(records))


def chosen(
    limits: Limits, features: Features, network: LayerNetwork | None, found: Replay | None
) -> Policy:
    """The policy that may decide: the network's only where everything speaks for it."""
    if not features.neural_controller or network is None or found is None or not found.better:
        return Rules(limits)
    return Learnt(limits, network)


def save(network: LayerNetwork, found: Replay, path: Path) -> None:
    """Write the network with its replay to a safetensors file."""
    figures = {
        "learnt": found.learnt,
        "rules": found.rules,
        "lower": found.lower,
        "records": found.records,
    }
    save_file(network.state_dict(), path, {"format": FORMAT, "replay": json.dumps(figures)})


def load(path: Path) -> tuple[LayerNetwork, Replay]:
    """Read what `save` wrote.

    Raises:
        InvalidError: it is something else.
    """
    network = LayerNetwork()
    try:
        with safe_open(path, framework="pt") as opened:
            about = opened.metadata() or {}
            if about.get("format") != FORMAT:
                raise InvalidError("policy", f"{path.name} is not of the format {FORMAT}")
            network.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 - no dictionary
        return network, Replay(**json.loads(about["replay"]))
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise InvalidError("policy", f"{path.name} cannot be read: {told:.200}") from error
