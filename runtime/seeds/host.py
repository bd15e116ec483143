"""One loaded model with its seeds: answers in one thread, learns in another.

Forward passes go one at a time through a thread of their own, and so does whatever changes what they
read: decisions and checkpoints that are loaded. An epoch of training runs beside them, in another thread.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.runtime.seeds import checkpoint
from seedbed.runtime.seeds.answering import Answer, answered, digest, plain_answer
from seedbed.runtime.seeds.attach import attach
from seedbed.runtime.seeds.begun import SHAPE, as_begun, former_spec
from seedbed.runtime.seeds.data import REFUSALS, AbortedError, paced, said, watched
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.fitting import fitting_data, refused_elsewhere, restarted
from seedbed.runtime.seeds.group import Alone, GroupLostError
from seedbed.runtime.seeds.loading import load_model
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.places import CheckpointPlace, Kept
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.shards import store_shard
from seedbed.runtime.seeds.telemetry import Telemetry
from seedbed.runtime.seeds.threads import aside
from seedbed.runtime.seeds.training import Data
from seedbed.runtime.seeds.wishes import attach_spec, graft_settings

T = TypeVar("T")
_log = logging.getLogger(__name__)


def _model_of_all(spec: SeedLayerSpec, group: Alone) -> nn.Module:
    """The model, where every process of the group could load it."""
    module: nn.Module | None = None
    refused: SeedbedError | None = None
    try:
        module = load_model(spec.model, group.device)
    except SeedbedError as error:
        refused = error
    elsewhere = refused_elsewhere(group, "" if refused is None else refused.message)
    if module is None or elsewhere is not None:
        failed = refused or elsewhere
        assert failed is not None
        raise failed
    return module


_Asked = tuple[Sequence[Tensor], Tensor | None, "Future[Answer]"]


class Host:
    """A model that serves and learns.

    Where a group of processes trains it, whatever all have to do is told by the first one, in the thread
    that trains: so every process does the same in the same order. With sharded seeds that is also true of
    requests, which are answered between two steps.

    Attributes:
        model: with its seeds; without any where the feature chunked_architecture is off.
        features: those it was made with.
        data: of the spec; None where it has none.
        group: the processes that train it together.
        spec: under which it was made; None for one that was made of parts.
        refused: why it was not made under the newest spec, but under that of its checkpoint.
        unfit: why nothing can be learnt from the data of the spec, where that is so.
        resumed: the checkpoint it goes on from.
        resumed_digest: see `digest`, of the state right after it was taken over.
        extra: what stood in that checkpoint beside the tensors.
    """

    def __init__(
        self,
        model: SeededModel,
        features: Features,
        data: Data | None,
        spec: SeedLayerSpec | None = None,
    ) -> None:
        self.model, self.features, self.data = model, features, data
        self.group, self.spec = model.group, spec
        self.refused: InvalidError | None = None
        self.unfit: SeedbedError | None = None
        self.resumed: Kept | None = None
        self.resumed_digest = ""
        self.extra: Mapping[str, str] = {}
        self._serving = ThreadPoolExecutor(1, "seeds-serve")
        self._training = ThreadPoolExecutor(1, "seeds-train")
        self._stop = threading.Event()
        self._closed = False
        self._asked: deque[_Asked] = deque()

    @classmethod
    async def load(
        cls,
        spec: SeedLayerSpec,
        features: Features,
        place: CheckpointPlace,
        group: Alone | None = None,
    ) -> Host:
        """Load, attach, and go on from the newest checkpoint.

        A change of the spec that names no layer, or that the checkpoint does not fit, is no end: the host is
        made in the shape with which the checkpoint was written, and `refused` says why.

        Raises:
            InvalidError, PackageMissingError: what is wrong with the spec.
            UnavailableError: the checkpoints cannot be reached.
        """
        return await aside(cls._load, spec, features, place, group or Alone())

    @classmethod
    def _load(
        cls, spec: SeedLayerSpec, features: Features, place: CheckpointPlace, group: Alone
    ) -> Host:
        if features.chunked_architecture:
            features = as_begun(features, place)
        try:
            return cls._resumed(spec, features, place, group)
        except InvalidError as error:
            former = former_spec(spec, place)
            if former is None or former == spec:
                raise
            host = cls._resumed(former, features, place, group)
            host.refused = error
            return host

    @classmethod
    def _resumed(
        cls, spec: SeedLayerSpec, features: Features, place: CheckpointPlace, group: Alone
    ) -> Host:
        host = cls._made_together(spec, features, group)
        host.resume_together(place)
        return host

    @classmethod
    def _made_together(cls, spec: SeedLayerSpec, features: Features, group: Alone) -> Host:
        group.tell("load", {"spec": spec.model_dump_json(), "features": asdict(features)})
        return cls.made(spec, features, group)

    @classmethod
    def made(cls, spec: SeedLayerSpec, features: Features, group: Alone) -> Host:
        """Load and attach, as every process of a group does at once.

        Raises:
            InvalidError, PackageMissingError: what is wrong with the spec.
            UnavailableError: the weights do not come, or the device has no memory for the model.
        """
        module = _model_of_all(spec, group)
        data: Data | None = None
        unfit: SeedbedError | None = None
        if spec.data is not None:
            # The first step that learns brings torch's compiler along, which takes seconds. They pass now,
            # before anybody waits for an answer.
            importlib.import_module("torch._dynamo")
            data, unfit = fitting_data(
                lambda batch: module(*batch.inputs), spec, group, thorough=restarted()
            )
        example = data.held_out[0].inputs if data is not None and data.held_out else None
        try:
            model = attach(module, attach_spec(spec), features, example=example, group=group)
        except InvalidError as error:
            if unfit is not None and error.field == "layers":  # the data would have told the widths
                raise unfit from error
            raise
        host = cls(model, features, data, spec)
        host.unfit = unfit
        return host

    async def look_for_data(self) -> None:
        """Load the data of the spec once more, in every process; `unfit` says whether all can use them."""

        def together() -> None:
            self.group.tell("data", {})
            self.take_data()

        if self.group.size == 1:  # no end has to wait for a place that hangs
            await aside(self.take_data)
        else:
            await asyncio.get_running_loop().run_in_executor(self._training, together)

    def take_data(self) -> None:
        """See `look_for_data`: what every process does."""
        if self.spec is None or self.spec.data is None:
            return
        self.data, self.unfit = fitting_data(
            lambda batch: plain_answer(self.model, batch),
            self.spec,
            self.group,
            self.model.epoch,
            thorough=True,
        )

    async def close(self) -> None:
        """Give up an epoch that runs, and end the threads."""
        self._closed = True
        self._stop.set()
        for pool in (self._training, self._serving):
            await asyncio.to_thread(pool.shutdown)

    def resume_together(self, place: CheckpointPlace) -> None:
        """Take the newest checkpoint over, the same in every process."""
        if self.model.layers:
            self.resume(place)
        number = 0 if self.resumed is None else self.resumed.number
        self.group.tell("take", {"number": number})
        if elsewhere := refused_elsewhere(self.group, ""):
            raise UnavailableError(f"the group cannot go on from checkpoint {number}: {elsewhere}")

    def resume(self, place: CheckpointPlace, number: int | None = None) -> bool:
        """Take the newest checkpoint over where there is a newer one, or a certain one; whether it did."""
        newest = next(iter(place.kept()), None)
        if newest is None or newest == self.resumed:
            return False

        def read(path: Path) -> None:
            checkpoint.about(path)
            self.extra = self.model.load(path)

        self.resumed = place.newest(read, number)
        if self.resumed is None:
            return False
        self.resumed_digest = self.digest()
        _log.info("goes on from checkpoint %d, %s", self.resumed.number, self.resumed_digest[:16])
        return True

    async def refresh(self, place: CheckpointPlace) -> bool:
        """`resume` between two passes, for a pod that only serves."""
        return await self._alone(self.resume, place)

    def follow(self, spec: SeedLayerSpec) -> None:
        """Take over what of a newer spec, one of the same shape, may change between two epochs."""
        self.spec = spec
        self.model.grafting = graft_settings(spec.grafting)
        if self.data is not None:
            self.data = paced(self.data, spec.training)

    def fitted(self, spec: SeedLayerSpec) -> SeedLayerSpec:
        """A newer spec, with what gives the state its shape as it was when the host was made."""
        if self.spec is None:
            return spec
        return spec.model_copy(update={name: getattr(self.spec, name) for name in SHAPE})

    async def answer(self, inputs: Sequence[Tensor], route: Tensor | None) -> Answer:
        """Ask the model.

        Raises:
            InvalidError: the inputs do not fit it.
            UnavailableError: the device has no memory left for them, or this host is being closed.
        """
        if self._closed:
            raise UnavailableError("the model is being loaded anew", retry_after=1.0)
        if not self.group.sharded:
            return await self._alone(self.pass_through, inputs, route)
        given: Future[Answer] = Future()
        self._asked.append((inputs, route, given))
        self._training.submit(self._answer_asked)
        return await asyncio.wrap_future(given)

    def _answer_asked(self) -> None:
        """Answer, with all processes, what has been asked since the last step."""
        while self._asked:
            inputs, route, given = self._asked.popleft()
            if not given.set_running_or_notify_cancel():
                continue
            tensors = (*inputs, *(() if route is None else (route,)))
            try:
                self.group.tell("ask", {"routed": route is not None}, tensors)
                given.set_result(self.pass_through(inputs, route))
            except SeedbedError as error:
                given.set_exception(error)

    def pass_through(self, inputs: Sequence[Tensor], route: Tensor | None) -> Answer:
        """One forward pass, now; see `answered`."""
        return answered(self.model, inputs, route)

    async def epoch(self, data: Data, count: Callable[[], None]) -> Telemetry:
        """Train for one epoch; `count` is called, in another thread, for each batch.

        Raises:
            AbortedError: `abort` was called meanwhile; the weights are those of the epoch's middle.
            GroupLostError: another process has gone, or cannot know that the epoch failed here.
            InvalidError: the model or its loss refuse a batch.
            UnavailableError: the device has no memory left for one.
        """

        def before() -> None:
            if self._stop.is_set():
                self.group.tell("stop", {})
                raise AbortedError
            self._answer_asked()
            self.group.tell("step", {})
            count()

        def train() -> Telemetry:
            spec = "" if self.spec is None else self.spec.model_dump_json()
            self.group.tell("epoch", {"spec": spec})
            try:
                return self.model.train_epoch(watched(data, before))
            except torch.OutOfMemoryError as error:
                failed: SeedbedError = UnavailableError(
                    "the device has no memory left to learn from a batch"
                )
                failed.__cause__ = error
            except InvalidError as error:
                failed = error
            except REFUSALS as error:
                told = f"an epoch failed with {type(error).__name__}: {said(error)}"
                failed = InvalidError("spec.data", told)
                failed.__cause__ = error
            if self.group.size > 1:  # the others are in the middle of it
                raise GroupLostError(failed.message) from failed
            raise failed

        return await asyncio.get_running_loop().run_in_executor(self._training, train)

    def abort(self) -> None:
        """Have an epoch that runs given up at its next batch, and none begun."""
        self._stop.set()

    async def apply(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Carry decisions out between two passes; gives those that were allowed."""

        def carry_out() -> list[Decision]:
            self.group.tell("apply", {"decisions": [each.packed() for each in decisions]})
            return self._serving.submit(self.model.apply, decisions).result()

        return await asyncio.get_running_loop().run_in_executor(self._training, carry_out)

    async def save(self, place: CheckpointPlace, extra: Mapping[str, str], keep: int) -> int:
        """Write a checkpoint, between two epochs; gives its bytes.

        Raises:
            FencedError: another process writes here now.
            UnavailableError: the place does not take it.
        """
        if self.spec is not None:
            shape = self.spec.model_dump_json(by_alias=True, include=set(SHAPE))
            extra = {**extra, "shape": shape}

        def store() -> int:
            place.check_claim()
            # A broken one keeps its number, so that what is newer stands after it.
            last = next(iter(place.kept()), Kept(0, ""))
            self.model.checkpoints = max(self.model.checkpoints, last.number)
            number = self.model.checkpoints + 1
            self.group.tell("save", {"number": number})
            shards = store_shard(self.model, place, number)
            return shards + place.store(number, lambda path: self.model.save(path, extra), keep)

        return await asyncio.get_running_loop().run_in_executor(self._training, store)

    async def keep_together(self, every: float) -> None:
        """Let the other processes hear something now and then, until cancelled."""
        loop = asyncio.get_running_loop()
        # Where they are gone, torchrun starts all of them anew.
        with suppress(GroupLostError):
            while self.group.size > 1:
                await asyncio.sleep(every)
                await loop.run_in_executor(self._training, self.group.tell, "beat", {})

    async def _alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """In the thread of the forward passes: nothing is asked of the model meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._serving, function, *arguments)

    def digest(self) -> str:
        """A hash of all that was learnt; see `answering.digest`."""
        return digest(self.model)
