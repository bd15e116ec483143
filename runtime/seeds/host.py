"""One loaded model with its seeds: answers in one thread, learns in another.

Forward passes go one at a time through a thread of their own, and so does whatever changes what they
read: decisions and checkpoints that are loaded. An epoch of training runs beside them, in another thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.runtime.seeds.attach import attach
from seedbed.runtime.seeds.data import load_data, watched
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.loading import best_device, load_model
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.places import BrokenError, CheckpointPlace, Kept
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.telemetry import Telemetry
from seedbed.runtime.seeds.training import Data
from seedbed.runtime.seeds.wishes import attach_spec

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a forward pass gave: the output on the CPU, and the seconds it took to compute."""

    output: Tensor
    seconds: float


class Host:
    """A model that serves and learns.

    Attributes:
        model: with its seeds; without any where the feature chunked_architecture is off.
        features: those it was made with.
        data: of the spec; None where it has none.
        resumed: the checkpoint it goes on from.
        resumed_digest: see `digest`, of the state right after it was taken over.
        extra: what stood in that checkpoint beside the tensors.
    """

    def __init__(self, model: SeededModel, features: Features, data: Data | None) -> None:
        self.model, self.features, self.data = model, features, data
        self.resumed: Kept | None = None
        self.resumed_digest = ""
        self.extra: Mapping[str, str] = {}
        self._serving = ThreadPoolExecutor(1, "seeds-serve")
        self._training = ThreadPoolExecutor(1, "seeds-train")
        self._stop = threading.Event()

    @classmethod
    async def load(cls, spec: SeedLayerSpec, features: Features, place: CheckpointPlace) -> Host:
        """Load, attach, and go on from the newest checkpoint.

        Raises:
            InvalidError, PackageMissingError: what is wrong with the spec.
            UnavailableError: the checkpoints cannot be reached.
        """
        return await asyncio.to_thread(cls._load, spec, features, place)

    @classmethod
    def _load(cls, spec: SeedLayerSpec, features: Features, place: CheckpointPlace) -> Host:
        device = best_device()
        module = load_model(spec.model, device)
        data = load_data(spec.data, spec.training, device) if spec.data is not None else None
        if features.chunked_architecture:
            features = _as_begun(features, place)
        example = data.held_out[0].inputs if data is not None and data.held_out else None
        model = attach(module, attach_spec(spec), features, example=example)
        host = cls(model, features, data)
        if model.layers:
            host.resume(place)
        return host

    async def close(self) -> None:
        """Give up an epoch that runs, and end the threads."""
        self._stop.set()
        for pool in (self._training, self._serving):
            await asyncio.to_thread(pool.shutdown)

    def resume(self, place: CheckpointPlace) -> bool:
        """Take the newest checkpoint over where there is a newer one; whether there was."""
        newest = next(iter(place.kept()), None)
        if newest is None or newest == self.resumed:
            return False

        def read(path: Path) -> None:
            _about(path)
            self.extra = self.model.load(path)

        self.resumed = place.newest(read)
        if self.resumed is None:
            return False
        self.resumed_digest = self.digest()
        _log.info("goes on from checkpoint %d, %s", self.resumed.number, self.resumed_digest[:16])
        return True

    async def refresh(self, place: CheckpointPlace) -> bool:
        """`resume` between two passes, for a pod that only serves."""
        return await self._alone(self.resume, place)

    async def answer(self, inputs: Sequence[Tensor], route: Tensor | None) -> Answer:
        """Ask the model.

        Raises:
            InvalidError: the inputs do not fit it.
            UnavailableError: the device has no memory left for them.
        """
        return await self._alone(self._answer, inputs, route)

    def _answer(self, inputs: Sequence[Tensor], route: Tensor | None) -> Answer:
        device = self.model.device
        moved = [each.to(device) for each in inputs]
        began = time.perf_counter()
        try:
            found = self.model.forward(*moved, route=None if route is None else route.to(device))
            output = _tensor(found).float().cpu()
        except torch.OutOfMemoryError as error:
            raise UnavailableError("the device has no memory left for this batch") from error
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            told = " ".join(str(error).split())
            raise InvalidError("inputs", f"the model refuses them: {told:.300}") from error
        return Answer(output, time.perf_counter() - began)

    async def epoch(self, data: Data, count: Callable[[], None]) -> Telemetry:
        """Train for one epoch; `count` is called, in another thread, for each batch.

        Raises:
            AbortedError: `abort` was called meanwhile; the weights are those of the epoch's middle.
        """
        loop = asyncio.get_running_loop()
        guarded = watched(data, self._stop, count)
        return await loop.run_in_executor(self._training, self.model.train_epoch, guarded)

    def abort(self) -> None:
        """Have an epoch that runs given up at its next batch, and none begun."""
        self._stop.set()

    async def apply(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Carry decisions out between two passes; gives those that were allowed."""
        return await self._alone(self.model.apply, decisions)

    async def save(self, place: CheckpointPlace, extra: Mapping[str, str], keep: int) -> int:
        """Write a checkpoint, between two epochs; gives its bytes."""
        number = self.model.checkpoints + 1

        def store() -> int:
            return place.store(number, lambda path: self.model.save(path, extra), keep)

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._training, store)

    async def _alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """In the thread of the forward passes: nothing is asked of the model meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._serving, function, *arguments)

    def digest(self) -> str:
        """A hash of every tensor that a checkpoint holds: the same where they are the same bit for bit."""
        model = self.model
        tensors = {f"state.{name}": one for name, one in model.state.tensors().items()}
        tensors |= {f"optimiser.{name}": one for name, one in model.optimiser.tensors().items()}
        for at, layer in enumerate(model.layers):
            tensors |= {
                f"layer.{at}.down": layer.down.detach(),
                f"layer.{at}.up": layer.up.detach(),
            }
        found = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def _as_begun(features: Features, place: CheckpointPlace) -> Features:
    """The features with the lifecycle under which the seeds' state began: its stages have to fit."""
    begun: list[bool] = []
    place.newest(lambda path: begun.append(bool(json.loads(_about(path)["plan"])["extended"])))
    if not begun or begun[-1] == features.extended_lifecycle:
        return features
    _log.warning("the checkpoint began with extended_lifecycle %s, which stays", begun[-1])
    return replace(features, extended_lifecycle=begun[-1])


def _about(path: Path) -> dict[str, str]:
    """What a checkpoint says of itself.

    Raises:
        BrokenError: it is no whole file.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        raise BrokenError(str(error)) from error


def _tensor(found: Any) -> Tensor:
    """The tensor that a model gave, alone or first of several."""
    if isinstance(found, Mapping):
        found = next(iter(found.values()))
    while isinstance(found, tuple | list):
        found = found[0]
    if not isinstance(found, Tensor):
        raise TypeError(f"the model gave a {type(found).__name__} and no tensor")
    return found
