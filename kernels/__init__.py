"""Torch, Triton and numba code of the seed layers, and nothing else.

A seed is a small adaptation beside frozen columns of a model. All seeds of a layer act in one call:

    y = x + alpha_s * f_s(x)

`seed_tokens` lets each token (or sequence) carry the index of its seed; `seed_chunks` cuts the columns
into as many chunks as there are seeds. Both return the new activations and, where asked, what each seed
saw (`telemetry`). Which path computes them, `dispatch` says.
"""

from seedbed.kernels.attention import attend_chunks, attend_tokens
from seedbed.kernels.blueprints import Blueprint, newborn
from seedbed.kernels.compiled import prepare
from seedbed.kernels.custom import custom_chunks, custom_tokens
from seedbed.kernels.layer import SeedTensors, chunk_width, plan_route, seed_chunks, seed_tokens
from seedbed.kernels.telemetry import Measure, correlation, dead_fraction, drift, variance

__version__ = "1.0.0"
FEATURES = (
    "token-routing",
    "chunk-routing",
    "telemetry",
    "autograd",
    "compile",
    "attention",
    "custom",
)

__all__ = [
    "FEATURES",
    "Blueprint",
    "Measure",
    "SeedTensors",
    "__version__",
    "attend_chunks",
    "attend_tokens",
    "chunk_width",
    "correlation",
    "custom_chunks",
    "custom_tokens",
    "dead_fraction",
    "drift",
    "newborn",
    "plan_route",
    "prepare",
    "seed_chunks",
    "seed_tokens",
    "variance",
]
