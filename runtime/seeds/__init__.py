"""Seed layers: a frozen torch model whose layers carry seeds, and the policy that lets them grow."""

from __future__ import annotations

from seedbed.runtime.seeds.features import Features

VERSION = "1.0"
"""Of the layer's behaviour: what a checkpoint and a policy of the same major number mean is the same."""

__all__ = ["VERSION", "Features"]
