"""A small real story: a network that reads digits is hit by a shift of its inputs, and seeds repair it.

The data are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (the test part of the UCI set "Optical
Recognition of Handwritten Digits"), so scikit-learn has to be installed. They are divided once, by a fixed
order: half trains the host on clean pictures and the seeds on shifted ones, a quarter is held out for the
policy, and a quarter is the test, which nothing but the final figures reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.runtime.seeds.training import Data, shuffled, whole

Shift = Literal["inverted", "rotated", "moved", "noisy"]
SIDE = 8
BRIGHTEST = 16.0
WIDTH = 256


@dataclass(frozen=True, slots=True)
class Part:
    """Some pictures, (count, 64) from 0 to 1, and the digits they show."""

    pictures: Tensor
    digits: Tensor


@dataclass(frozen=True, slots=True)
class Digits:
    """The three parts of the data."""

    train: Part
    held_out: Part
    test: Part


def digits() -> Digits:
    """The data, divided.

    Raises:
        UnavailableError: scikit-learn is not installed.
    """
    try:
        found = import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise UnavailableError(
            "the digits come with scikit-learn, which is not installed"
        ) from error
    pictures = torch.tensor(found.data, dtype=torch.float32) / BRIGHTEST
    labels = torch.tensor(found.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    half, quarter = len(labels) // 2, len(labels) // 4
    parts = order[:half], order[half : half + quarter], order[half + quarter :]
    return Digits(*(Part(pictures[part], labels[part]) for part in parts))


def shifted(part: Part, shift: Shift) -> Part:
    """The same digits as a changed camera would give them.

    inverted: dark on light. rotated: by a quarter turn. moved: two pixels to the right. noisy: with normal
    noise of 0.5, always the same.
    """
    square = part.pictures.view(-1, SIDE, SIDE)
    if shift == "inverted":
        changed = 1.0 - square
    elif shift == "rotated":
        changed = square.rot90(1, dims=(1, 2))
    elif shift == "moved":
        changed = functional.pad(square, (2, 0))[:, :, :SIDE]
    elif shift == "noisy":
        noise = torch.randn(square.shape, generator=torch.Generator().manual_seed(2))
        changed = (square + 0.5 * noise).clamp(0.0, 1.0)
    else:
        raise InvalidError("shift", f"expected one of {', '.join(get_args(Shift))}")
    return Part(changed.reshape(-1, SIDE * SIDE).contiguous(), part.digits)


def network(chance: int = 0) -> nn.Sequential:
    """The host, not trained: three hidden layers of 256, 151,306 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chance)
        return nn.Sequential(
            nn.Linear(SIDE * SIDE, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, 10),
        )


def trained(part: Part, epochs: int = 30, chance: int = 0) -> nn.Sequential:
    """The host, trained on clean pictures by Adam; the same numbers give the same network."""
    host = network(chance)
    optimiser = torch.optim.Adam(host.parameters(), lr=1e-3)
    batches = shuffled(part.pictures, part.digits, 64, chance)
    for epoch in range(epochs):
        for batch in batches(epoch):
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(host(*batch.inputs), batch.target))
            optimiser.step()
    return host.eval()


def model() -> nn.Module:
    """Entry point: the trained host. Trains it in seconds."""
    return trained(digits().train)


def data(shift: Shift = "inverted", chance: int = 0) -> Data:
    """Entry point: what seeds learn from and are judged by, shifted."""
    found = digits()
    train, held_out = shifted(found.train, shift), shifted(found.held_out, shift)
    return Data(
        shuffled(train.pictures, train.digits, 64, chance),
        whole(held_out.pictures, held_out.digits),
        rate=5e-3,
        fine_rate=1e-3,
    )


def accuracy(host: nn.Module, part: Part) -> float:
    """Share of the digits that a network reads rightly."""
    with torch.inference_mode():
        return float((host(part.pictures).argmax(dim=1) == part.digits).float().mean())
