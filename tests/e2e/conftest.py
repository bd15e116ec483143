"""The node of the end-to-end tests: one for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from hack.cluster import modes
from tests.e2e.node import Node, eventually, running_node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    obstacle = modes.node_obstacle(modes.inspect())
    if obstacle and "another" not in obstacle:
        pytest.skip(f"no node is possible here: {obstacle}")
    with running_node() as running:
        yield running


@pytest.fixture(scope="session")
def namespace(node: Node) -> Iterator[str]:
    """A namespace under the restricted standard, with a Pool of four workers."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    node.kubectl("create", "namespace", name)
    node.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    node.apply(
        {
            "apiVersion": "seedbed.dev/v1alpha1",
            "kind": "Pool",
            "metadata": {"name": "general"},
            "spec": {"replicas": 1, "workersPerReplica": 4},
        },
        namespace=name,
    )
    eventually(
        lambda: node.condition("pool", "general", name).get("status") == "True",
        "the Pool is ready",
        90,
    )
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")
