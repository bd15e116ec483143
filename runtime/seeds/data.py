"""What seeds are trained on: an entry point, a file of arrays, or what callers have sent."""

from __future__ import annotations

import itertools
import math
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.crds.seed_layer import DataSource
from seedbed.crds.seed_policy import Training
from seedbed.runtime.seeds.fetching import address, is_pickle, local_copy, read_tensors, told
from seedbed.runtime.seeds.loading import called
from seedbed.runtime.seeds.tables import FORMATS, read_table
from seedbed.runtime.seeds.training import Batch, Data

KEPT_BATCHES = 4096
KEPT_BYTES = 256 * 1024 * 1024
"""How many batches of callers are kept to learn from, and how many to measure by; the oldest go first."""
_HELD_OUT = 5
"""Every so manieth batch of callers is measured by, and never trained on."""
_JUDGED = 1024
_ARRAYS = ("inputs", "targets", "test_inputs", "test_targets")
REFUSALS = (
    RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError, AttributeError,
)  # fmt: skip
"""What torch and a user's model raise for tensors that they cannot use."""
_NO_NPZ = (*REFUSALS, OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy and the archive below it raise for a file that is none."""


class AbortedError(Exception):
    """An epoch was given up in its middle, because the pod ends."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """Inputs, targets and, with routing by token, the seed of each row."""

    inputs: Tensor
    targets: Tensor
    route: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, rows: Tensor | slice) -> Batch:
        """Some of the rows."""
        route = None if self.route is None else self.route[rows]
        return Batch((self.inputs[rows],), self.targets[rows], route)

    def to(self, device: torch.device) -> Arrays:
        """The same on a device."""
        route = None if self.route is None else self.route.to(device)
        return Arrays(self.inputs.to(device), self.targets.to(device), route)


def load_data(source: DataSource, training: Training, device: torch.device) -> Data:
    """The data of a spec.

    An entry point may also give a ready `training.Data`, with a loss of its own.

    Raises:
        InvalidError: naming the field of `spec.data` that is wrong.
        UnavailableError: the data do not come, or the device has no memory for them.
    """
    try:
        if source.url is not None:
            train, test = _read(source.url)
        else:
            assert source.entry is not None, "admission asks for exactly one source"
            given = called(source.entry, source.arguments, "spec.data.entry")
            if isinstance(given, Data):
                return paced(_judging(given), training)
            train, test = _four(given)
        return paced(_as_data(train.to(device), test.to(device), training), training)
    except torch.OutOfMemoryError as error:
        raise UnavailableError("spec.data: the device has no memory for them") from error


def _judging(data: Data) -> Data:
    """What an entry point made itself, where it has something to measure by."""
    held_out = data.held_out
    if not isinstance(held_out, Sequence) or not all(isinstance(each, Batch) for each in held_out):
        raise InvalidError("spec.data.entry", "held_out: expected a sequence of training.Batch")
    return data


def paced(data: Data, training: Training) -> Data:
    """The data with the rates of the spec, which may have changed since the last epoch."""
    return replace(data, rate=training.learning_rate, fine_rate=training.fine_learning_rate)


def watched(data: Data, before: Callable[[], None]) -> Data:
    """The data; `before` is called ahead of each batch, and may give the epoch up."""

    def guarded(epoch: int) -> Iterator[Batch]:
        for batch in batches(data, epoch):
            before()
            yield batch

    return replace(data, train=guarded)


def batches(data: Data, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch; the user's own code may give them.

    Raises:
        InvalidError: it fails, or gives something else.
    """
    try:
        for batch in data.train(epoch):
            if not isinstance(batch, Batch):
                raise TypeError(f"expected a training.Batch, got a {type(batch).__name__}")
            yield batch
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # The user's own code: whatever it raises is the user's to mend.
        what = f"the batches of epoch {epoch} fail with {type(error).__name__}: {told(error)}"
        raise InvalidError("spec.data", what) from error


def as_numbers(inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The inputs as they came; then whole numbers as float32, as JSON does not tell 1.0 from 1."""
    yield tuple(inputs)
    if not all(each.is_floating_point() for each in inputs):
        yield tuple(each.float() for each in inputs)


def said(error: Exception) -> str:
    """An error in one line."""
    return f"{' '.join(str(error).split()):.300}"


def check_loss(data: Data, answer: Tensor, target: Tensor) -> float:
    """The loss of an answer.

    Raises:
        InvalidError: it cannot be computed for these targets.
    """
    try:
        data.correct(answer, target).item()
        return float(data.loss(answer, target))
    except REFUSALS as error:
        raise InvalidError("targets", f"the loss refuses them: {said(error)}") from error


def check_fit(
    answers: Callable[[Batch], Any], data: Data, epoch: int = 0, *, thorough: bool = False
) -> None:
    """That a model and its loss take the first batch and those that are measured by.

    Args:
        answers: the model's answer to a batch.
        data: to learn from.
        epoch: whose batches are tried.
        thorough: all of them.

    Raises:
        InvalidError: they do not, and an epoch would fail with this.
    """
    some = itertools.islice(batches(data, epoch), None if thorough else 1)
    with torch.inference_mode():
        for batch in itertools.chain(some, data.held_out):
            try:
                answer = answers(batch)
            except torch.OutOfMemoryError:
                raise
            except REFUSALS as error:
                what = f"the model refuses the inputs: {said(error)}"
                raise InvalidError("spec.data", what) from error
            # A GPU would not survive a class that does not exist.
            near = data.loss is functional.cross_entropy and isinstance(answer, Tensor)
            target = batch.target.cpu() if near else batch.target
            try:
                check_loss(data, answer.float().cpu() if near else answer, target)
            except InvalidError as error:
                raise InvalidError("spec.data", f"{error.field}: {error.expected}") from error


def _as_data(train: Arrays, test: Arrays, training: Training) -> Data:
    def batches(epoch: int) -> Iterator[Batch]:
        # The order depends on the epoch and the spec alone, so that an epoch can be repeated.
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
        order = torch.randperm(len(train), generator=generator).to(train.inputs.device)
        yield from (train.part(rows) for rows in torch.split(order, training.batch_size))

    whole = tuple(test.part(slice(at, at + _JUDGED)) for at in range(0, len(test), _JUDGED))
    return Data(batches, whole)


def _four(given: Any) -> tuple[Arrays, Arrays]:
    field = "spec.data.entry"
    if not isinstance(given, Sequence) or len(given) != len(_ARRAYS):
        raise InvalidError(
            field, "expected four tensors: inputs, targets, test inputs, test targets"
        )
    try:
        tensors = [torch.as_tensor(each) for each in given]
    except REFUSALS as error:
        raise InvalidError(field, f"expected four tensors: {said(error)}") from error
    return _checked(dict(zip(_ARRAYS, tensors, strict=True)), field)


def _read(url: str) -> tuple[Arrays, Arrays]:
    field = "spec.data.url"
    with local_copy(url, field) as path:
        if path.suffix in FORMATS:
            arrays = read_table(path, field)
        elif path.suffix == ".npz":
            arrays = _read_npz(path, field, url)
        else:
            arrays = read_tensors(path, field, url, "; .npz, .csv and .jsonl are known by ending")
    return _checked(arrays, field)


def _read_npz(path: Path, field: str, url: str) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: torch.from_numpy(found[name]) for name in found.files}
    except _NO_NPZ as error:
        what = "a pickle, which is never loaded" if is_pickle(path) else told(error, url)
        raise InvalidError(
            field, f"expected an npz file of numbers at {address(url)}, and found {what}"
        ) from error


def _checked(arrays: Mapping[str, Tensor], field: str) -> tuple[Arrays, Arrays]:
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise InvalidError(field, f"has no {', '.join(missing)}")
    train = Arrays(arrays["inputs"], arrays["targets"], arrays.get("route"))
    test = Arrays(arrays["test_inputs"], arrays["test_targets"], arrays.get("test_route"))
    for name, part in (("inputs", train), ("test_inputs", test)):
        if part.inputs.dim() == 0 or part.targets.dim() == 0:
            raise InvalidError(field, f"{name} and its targets: expected arrays with rows")
        if part.route is not None and len(part.route) != len(part):
            raise InvalidError(field, f"expected a route for each row of {name}")
        targets = name.replace("inputs", "targets")
        for which, numbers in ((name, part.inputs), (targets, part.targets)):
            if not bool(numbers.isfinite().all()):
                raise InvalidError(field, f"{which}: expected finite numbers")
        if len(part) == 0 or len(part) != len(part.targets):
            expected = f"{name} needs a target for each of its rows, and at least one row"
            raise InvalidError(field, expected)
    return train, test


class _Recent:
    """The newest batches, at least one."""

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()
        self._bytes = 0

    def append(self, batch: Batch) -> None:
        """Keep a batch, and let go of those that are too many."""
        self.batches.append(batch)
        self._bytes += _bytes(batch)
        while len(self.batches) > 1 and (
            len(self.batches) > KEPT_BATCHES or self._bytes > KEPT_BYTES
        ):
            self._bytes -= _bytes(self.batches.popleft())

    def clear(self) -> None:
        """Keep none."""
        self.batches.clear()
        self._bytes = 0


def _bytes(batch: Batch) -> int:
    return sum(each.nbytes for each in (*batch.inputs, batch.target))


class Collected:
    """What callers have sent to be trained on; every fifth batch is kept to measure by."""

    def __init__(self) -> None:
        self._train, self._held_out = _Recent(), _Recent()
        self._taken = 0
        self.fresh = 0
        """Batches that came since the last epoch."""

    def take(self, batch: Batch) -> int:
        """Keep a batch; gives how many are kept."""
        kept = self._held_out if self._taken % _HELD_OUT == 0 else self._train
        kept.append(batch)
        self._taken += 1
        self.fresh += 1
        return len(self._train.batches) + len(self._held_out.batches)

    @staticmethod
    def check(answer: Tensor, targets: Tensor) -> None:
        """That an answer and its targets have a loss that can be learnt from.

        Raises:
            InvalidError: they have none.
        """
        if not math.isfinite(check_loss(Data(lambda _: (), ()), answer, targets)):
            raise InvalidError("targets", "expected some with a finite loss")

    def forget(self) -> None:
        """Keep nothing of what came."""
        self._train.clear()
        self._held_out.clear()
        self._taken = self.fresh = 0

    @property
    def ready(self) -> bool:
        """Whether there is something new to learn from and something to measure by."""
        return self.fresh > 0 and bool(self._train.batches) and bool(self._held_out.batches)

    def data(self) -> Data:
        """All of it as an epoch's data."""
        self.fresh = 0
        batches = tuple(self._train.batches)

        def train(epoch: int) -> Iterable[Batch]:
            generator = torch.Generator().manual_seed(epoch)
            order = torch.randperm(len(batches), generator=generator).tolist()
            return (batches[at] for at in order)

        return Data(train, tuple(self._held_out.batches))
