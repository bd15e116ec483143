"""A SeedLayer's pod on a real node is killed in each stage of a seed's life, replaced and evicted.

`make test-seeds-cluster` runs this: the pods have their own image, with torch, whose gigabytes take minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hack.cluster import cluster
from hack.image import images
from tests.e2e.digits import ENDLESS, POD, RECOVERED, Digits, applied
from tests.e2e.node import Node, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]

# Slow enough to be caught in each stage.
SLOW: dict[str, dict[str, Any]] = {
    "training": {"interval": "500ms", "epochs": ENDLESS},
    "lifecycle": {
        "stages": dict.fromkeys(
            ("germination", "training", "stabilisation", "evaluation", "fineTuning"), 3
        )
    },
}
SPOT_SECONDS = 120.0


@pytest.fixture(scope="module")
def example(node: Node) -> Iterator[Digits]:
    _, archive = images.build("seedbed-kernels", "dev")
    cluster.load_images(node.name, [archive])
    with applied(node, SLOW, own_image=True) as running:
        yield running


@pytest.mark.parametrize(
    "stage",
    [
        "germinated",
        "training",
        "grafting",
        "stabilisation",
        "evaluating",
        "fineTuning",
        "fossilised",
    ],
)
def test_a_pod_killed_in_a_stage_goes_on_with_the_same_tensors(example: Digits, stage: str) -> None:
    example.ready()
    before = example.held_in(stage)
    example.ready(not_pod=example.kill())
    assert example.page("/v1/model")["resumed"]["digest"] == before["state"]["digest"]
    assert example.page("/v1/state") == before["state"]
    assert example.page("/v1/seeds") == before["seeds"]


def training_again(example: Digits) -> int:
    """Epochs go on, with no checkpoint for an hour but for moves; gives the epoch reached."""
    began = example.page("/v1/model")["epoch"]
    example.change(training={"epochs": ENDLESS, "interval": "100ms"}, checkpoint={"interval": "1h"})

    def beyond() -> int:
        epoch = int(example.page("/v1/model")["epoch"])
        return epoch if epoch > began + 2 else 0

    return eventually(beyond, "epochs go on")


def test_a_new_version_goes_on_from_where_the_old_one_ended(example: Digits) -> None:
    uid = example.pod()["metadata"]["uid"]
    reached = training_again(example)
    release = {"name": "RELEASE", "value": "2"}
    example.change(template={"env": [release]})
    example.ready(not_pod=uid)
    assert release in example.pod()["spec"]["containers"][0]["env"]
    assert example.page("/v1/model")["epoch"] >= reached, "no epoch is lost"


def test_an_evicted_pod_is_gone_in_time_and_its_state_is_safe(example: Digits) -> None:
    pod = example.pod()
    reached = training_again(example)
    metadata = {"name": POD, "namespace": example.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{example.namespace}/pods/{POD}/eviction"
    assert pod["spec"]["terminationGracePeriodSeconds"] <= SPOT_SECONDS
    example.node.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    uid = pod["metadata"]["uid"]
    eventually(
        lambda: example.pod().get("metadata", {}).get("uid") != uid, "it is gone", SPOT_SECONDS
    )
    example.ready(not_pod=uid)
    assert example.page("/v1/model")["epoch"] >= reached


def test_after_all_of_it_the_reader_is_repaired(example: Digits) -> None:
    example.change(training={"interval": None}, lifecycle={"stages": None})
    eventually(
        lambda: float(example.status()["accuracy"]) > RECOVERED,
        "half of what was lost is back",
        120,
    )
