"""What a model with seeds is asked: for answers, and for a hash of all that it has learnt."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.runtime.seeds.data import REFUSALS, as_numbers, said
from seedbed.runtime.seeds.layer import Pass
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.training import Batch


@dataclass(frozen=True, slots=True)
class Answer:
    """What a forward pass gave: the output on the CPU, and the seconds it took to compute.

    Attributes:
        inputs: as the model took them, see `as_numbers`.
    """

    output: Tensor
    seconds: float
    inputs: tuple[Tensor, ...]


def answered(model: SeededModel, inputs: Sequence[Tensor], route: Tensor | None) -> Answer:
    """One forward pass, now.

    Raises:
        InvalidError: the inputs do not fit it.
        UnavailableError: the device has no memory left for them.
    """
    device = model.device
    seeds = None if route is None else route.to(device)
    refused: Exception | None = None
    for given in as_numbers(inputs):
        began = time.perf_counter()
        try:
            found = model.forward(*(each.to(device) for each in given), route=seeds)
            output = _tensor(found).float().cpu()
        except torch.OutOfMemoryError as error:
            raise UnavailableError("the device has no memory left for this batch") from error
        except REFUSALS as error:
            refused = refused or error
        else:
            return Answer(output, time.perf_counter() - began, given)
    assert refused is not None
    raise InvalidError("inputs", f"the model refuses them: {said(refused)}") from refused


def plain_answer(model: SeededModel, batch: Batch) -> Any:
    """What the frozen model alone gives, whatever the seeds do; no other process takes part.

    Raises:
        ValueError: the batch names seeds that are not there.
    """
    route, seeds = batch.route, min((layer.seeds for layer in model.layers), default=0)
    if route is not None and seeds and not bool(((route >= -1) & (route < seeds)).all()):
        raise ValueError(f"route: expected seeds from 0 to {seeds - 1}, or -1 for none")
    with torch.inference_mode(), model.passing(Pass(plain=True)):
        return model.module(*batch.inputs)


def digest(model: SeededModel) -> str:
    """A hash of every tensor that a checkpoint holds: the same where they are the same bit for bit.

    Of sharded seeds the weights that are here.
    """
    tensors = {f"state.{name}": one for name, one in model.state.tensors().items()}
    tensors |= {f"optimiser.{name}": one for name, one in model.optimiser.tensors().items()}
    for at, layer in enumerate(model.layers):
        tensors |= {f"layer.{at}.down": layer.down.detach(), f"layer.{at}.up": layer.up.detach()}
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _tensor(found: Any) -> Tensor:
    """The tensor that a model gave, alone or first of several."""
    if isinstance(found, Mapping):
        found = next(iter(found.values()))
    while isinstance(found, tuple | list):
        found = found[0]
    if not isinstance(found, Tensor):
        raise TypeError(f"the model gave a {type(found).__name__} and no tensor")
    return found
