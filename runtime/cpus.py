"""How many CPUs this process may use: as many as its pod has, not as many as the node has.

Libraries that compute take every core that they see. In a pod with a CPU limit those threads share a small
quota, run it up within a few milliseconds, and all stand still until the next period begins.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpus(cgroup: Path = CGROUP) -> int:
    """CPUs for this process, at least one."""
    return wanted(len(os.sched_getaffinity(0)), quota(cgroup))


def quota(cgroup: Path = CGROUP) -> float | None:
    """CPUs that the control group allows, of version 2 or 1; None for no limit."""
    whole = _words(cgroup / "cpu.max")
    if whole:
        limit, period = whole[0], whole[-1]
    else:
        limit = " ".join(_words(cgroup / "cpu" / "cpu.cfs_quota_us"))
        period = " ".join(_words(cgroup / "cpu" / "cpu.cfs_period_us"))
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", "-1", or no control group that can be read
    return int(limit) / int(period)


def wanted(cores: int, allowed: float | None) -> int:
    """Threads for so many cores under a limit; a part of a CPU counts as one."""
    return cores if allowed is None else max(1, min(cores, math.ceil(allowed)))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
