"""Where operator, engine and workers meet: partitions, queues, topics and the keys of live settings."""

from __future__ import annotations

import hashlib
from functools import lru_cache

PARTITIONS = 16
SETTING_PREFIXES = ("agents/", "flags/", "pools/", "seedlayers/", "templates/", "workflows/")
"""Where the live settings of Agents, FeatureFlags, Pools, SeedLayers, templates and Workflows stand."""


@lru_cache(maxsize=4096)
def partition_of(run: str) -> int:
    """The partition, 0 to 15, that a run belongs to for ever."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "big") % PARTITIONS


def work_queue(namespace: str, pool: str) -> str:
    """Name of the work queue that the workers of a Pool pull from."""
    return f"{namespace}.{pool}"


def engine_address(partition: int) -> str:
    """Where the owner of a partition takes requests."""
    return f"engine.{partition}"


def worker_address(worker: str) -> str:
    """Where a worker answers a `StepTask` at once with its `StepResult`, beside the queue of its Pool."""
    return f"worker.{worker}"


def unwanted_topic(namespace: str) -> str:
    """Where engines tell the workers of a namespace which attempts are `Unwanted`."""
    return f"unwanted.{namespace}"


def summaries_topic(partition: int) -> str:
    """Where the owner of a partition publishes a RunSummary after each change."""
    return f"runs.{partition}"


def agent_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds an Agent's spec; the prefix of all where no name is given."""
    return f"agents/{namespace}/{name}"


def flag_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds a FeatureFlag's spec."""
    return f"flags/{namespace}/{name}"


def template_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds the spec of a Workflow that is a template."""
    return f"templates/{namespace}/{name}"


def pool_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds a Pool's spec."""
    return f"pools/{namespace}/{name}"
