"""Which process of a group this is, by the variables that torchrun sets. Needs no torch."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether `launch` has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def local_rank() -> int:
    """Which of its pod's processes this is; 0 for the only one."""
    return int(os.environ.get("LOCAL_RANK", "0"))
