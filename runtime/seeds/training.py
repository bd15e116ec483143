"""One epoch of a model with seeds: steps in which only learning seeds change, then measurement.

A training pass goes by the training alphas: seeds in TRAINING act fully there, and not at all in what
users get. An epoch that concerns no seed makes no steps. Held-out data are passed through up to three
times at the end: as served, with the seeds in training, and without those on trial; the differences are
the seeds' scores.

Where a group of processes holds the same seeds, each learns from its part of a batch, and gradients are
summed by their share of the rows: the loss has to be a mean over rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from seedbed.kernels import telemetry as measured
from seedbed.runtime.seeds import grafting
from seedbed.runtime.seeds.layer import Pass, View
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Graft, Metric
from seedbed.runtime.seeds.telemetry import Telemetry

if TYPE_CHECKING:
    from seedbed.runtime.seeds.model import SeededModel


KEPT_EPOCHS = 2048
"""Accuracies of so many last epochs are all kept; more than `patience` may be."""


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        inputs: the model's positional arguments.
        target: what `loss` and `correct` compare the answer with.
        route: with routing by token, each token's or sequence's seed.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    route: Tensor | None = None

    def part(self, rows: slice) -> Batch:
        """Some of the samples."""
        if rows == slice(0, len(self.target)):
            return self
        route = None if self.route is None else self.route[rows]
        return Batch(tuple(each[rows] for each in self.inputs), self.target[rows], route)


def correct(answer: Tensor, target: Tensor) -> Tensor:
    """For classes: how many of the targets have the highest score."""
    return (answer.argmax(dim=-1) == target).sum()


@dataclass(frozen=True, slots=True)
class Data:
    """What an epoch learns from and is judged by.

    Attributes:
        train: the batches of an epoch, by its number.
        held_out: batches that no seed learns from.
        loss: mean loss of an answer.
        correct: how many targets the answer meets; accuracy is their share.
        rate: learning rate of Adam.
        fine_rate: the same while a seed is fine-tuned.
    """

    train: Callable[[int], Iterable[Batch]]
    held_out: Sequence[Batch]
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    correct: Callable[[Tensor, Tensor], Tensor] = correct
    rate: float = 1e-2
    fine_rate: float = 1e-3


def shuffled(
    inputs: Tensor, target: Tensor, size: int, chance: int = 0
) -> Callable[[int], Iterable[Batch]]:
    """Batches of tensors that fit in memory, in an order that depends on the epoch and `chance` alone."""

    def of(epoch: int) -> Iterable[Batch]:
        generator = torch.Generator().manual_seed(chance * 1_000_003 + epoch)
        for part in torch.split(torch.randperm(len(inputs), generator=generator), size):
            yield Batch((inputs[part],), target[part])

    return of


def whole(inputs: Tensor, target: Tensor, size: int = 1024) -> tuple[Batch, ...]:
    """All of some tensors, in order, for judgement."""
    return tuple(
        Batch((x,), y)
        for x, y in zip(torch.split(inputs, size), torch.split(target, size), strict=True)
    )


def epoch(model: SeededModel, data: Data) -> Telemetry:
    """Train what learns for one pass over the data, end the epoch, and measure."""
    started = time.perf_counter()
    model.refresh()
    loss, samples = _train(model, data)
    model.epoch += 1
    model.state.end_epoch()
    metrics = _judge(model, data)
    return Telemetry(
        epoch=model.epoch,
        loss=loss,
        accuracies=model.accuracies,
        metrics=metrics,
        layers=model.spans,
        seconds=time.perf_counter() - started,
        samples=samples,
    )


def _train(model: SeededModel, data: Data) -> tuple[float, int]:
    """The steps of an epoch: mean loss and samples seen; NaN and 0 where no step was made."""
    if not model.optimiser.stepping:
        return float("nan"), 0
    total, steps, samples = torch.zeros((), device=model.device), 0, 0
    for batch in data.train(model.epoch):
        if model.blending:
            grafting.step(model.state, model.grafting)
            model.blend()
        part = batch.part(model.group.share(len(batch.target)))
        if share := len(part.target) / len(batch.target):
            with torch.enable_grad(), model.passing(Pass(View.TRAINING, part.route)):
                loss = data.loss(model.module(*part.inputs), part.target) * share
            torch.autograd.backward(loss)
            total += loss.detach()
        model.optimiser.step(model.state, model.spans, data.rate, data.fine_rate)
        steps += 1
        samples += len(batch.target)
    if model.group.replicated:
        model.group.add([total])
    return float(total) / max(steps, 1), samples


def accuracy(
    model: SeededModel, data: Data, view: View, sums: dict[str, Tensor] | None = None
) -> float:
    """Share of the held-out targets that are met, by the alphas of a view."""
    met, asked = torch.zeros((), device=model.device), 0
    for batch in data.held_out:
        part = batch.part(model.group.share(len(batch.target)))
        if len(part.target):
            with torch.inference_mode(), model.passing(Pass(view, part.route, sums)):
                met += data.correct(model.module(*part.inputs), part.target)
        asked += batch.target.numel()
    _gather(model, met, sums)
    return float(met) / max(asked, 1)


def _gather(model: SeededModel, met: Tensor, sums: dict[str, Tensor] | None) -> None:
    """Bring together what the processes of a group have seen.

    With replicated seeds each saw some of the samples; with sharded ones all of them, but of its own seeds.
    """
    group = model.group
    if group.replicated:
        group.add([met])
    if sums is None or group.size == 1:
        return
    with torch.inference_mode():
        for layer in model.layers:
            if layer.name not in sums:
                none = torch.zeros(layer.seeds, len(measured.Measure), device=model.device)
                sums[layer.name] = none
        group.add([sums[layer.name] for layer in model.layers])
        for layer in model.layers:
            if not bool(sums[layer.name][:, measured.Measure.COUNT].any()):
                del sums[layer.name]


def _judge(model: SeededModel, data: Data) -> Tensor:
    """Measure the model and what its seeds bring; the seeds' health, on the CPU."""
    state = model.state
    learning_unseen = state.stage == Stage.TRAINING
    on_trial = state.members("acting") & (state.stage != Stage.FOSSILISED)
    unseen, trial = bool(learning_unseen.any()), bool(on_trial.any())
    sums: dict[str, Tensor] = {}
    served = accuracy(model, data, View.SERVING, None if unseen else sums)
    if unseen:
        state.score(learning_unseen, accuracy(model, data, View.TRAINING, sums) - served)
    if trial:
        state.score(on_trial, served - accuracy(model, data, View.WITHOUT))
    model.accuracies = kept(model.accuracies, served)
    _note_health(model, sums)
    return state.metrics.cpu().clone()


def kept(accuracies: tuple[float, ...], newest: float) -> tuple[float, ...]:
    """Accuracies by epoch with one more: all of the lately ones, before them the first and the best.

    A pod lives for millions of epochs; what decides is whether the last ones are better than all before.
    """
    longer = (*accuracies, newest)
    if len(longer) <= 2 * KEPT_EPOCHS:
        return longer
    return (longer[0], max(longer[:-KEPT_EPOCHS]), *longer[-KEPT_EPOCHS:])


def _note_health(model: SeededModel, sums: dict[str, Tensor]) -> None:
    """The kernels' sums as the state's metrics; NaN for seeds that saw nothing."""
    state = model.state
    for layer, span in model.placed():
        here = slice(span.first, span.first + span.count)
        found = sums.get(layer.name)
        if found is None:
            state.metrics[here] = torch.nan
            continue
        widths = layer.widths().to(found)
        alpha = state.training_alpha()[here]
        effect = measured.drift(found) / alpha.clamp(min=1e-6)
        before = state.graft[here, Graft.EFFECT]
        drift = (effect - before).abs() / torch.maximum(effect, before).clamp(min=1e-6)
        acted = alpha > 0
        metrics = state.metrics[here]
        metrics[:, Metric.VARIANCE] = measured.variance(found)
        metrics[:, Metric.DEAD] = measured.dead_fraction(found)
        metrics[:, Metric.CORRELATION] = measured.correlation(found, widths)
        metrics[:, Metric.DRIFT] = torch.where(acted, drift, 0.0)
        metrics.masked_fill_((found[:, measured.Measure.COUNT] == 0)[:, None], torch.nan)
        state.graft[here, Graft.EFFECT] = torch.where(acted, effect, 0.0)
