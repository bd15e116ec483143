"""examples/seeds/digits.yaml on a real node: seeds repair a reader of digits while it serves."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from seedbed.examples.seeds import digits
from tests.e2e.digits import NAME, POD, RECOVERED, Digits, applied
from tests.e2e.node import Node, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def example(node: Node) -> Iterator[Digits]:
    with applied(node, {}, own_image=False) as running:
        yield running


def test_seeds_repair_the_reader_while_it_serves(example: Digits) -> None:
    example.ready()
    test = digits.shifted(digits.digits().test, "moved")

    def accuracy() -> float:
        return float((example.asked(test.pictures) == test.digits).float().mean())

    eventually(lambda: accuracy() > RECOVERED, "half of what was lost is back", 120)
    eventually(lambda: example.activity() == "Ended", "every epoch is over", 120)
    status = example.status()
    assert float(status["accuracy"]) > RECOVERED > float(status["baseAccuracy"])
    assert float(status["newParameters"].rstrip("%")) < 5
    assert status["lastCheckpoint"]["epoch"] == status["epoch"] == 60


def test_commands_and_metrics_tell_the_story(example: Digits) -> None:
    accuracy = example.status()["accuracy"]
    assert accuracy in example.node.seedbed("seeds", "status", NAME, "-n", example.namespace)
    log = example.node.seedbed("seeds", "decisions", NAME, "-n", example.namespace, "-o", "json")
    assert {"Germinated", "Training", "Fossilised"} <= {one["to"] for one in json.loads(log)}
    path = f"/api/v1/namespaces/{example.namespace}/pods/{POD}:8080/proxy/metrics"
    figures = dict(
        line.rsplit(" ", 1)
        for line in example.node.kubectl("get", "--raw", path).splitlines()
        if not line.startswith("#")
    )
    assert float(figures['seedbed_seeds{stage="fossilised"}']) > 0
    assert float(figures["seedbed_seed_forward_seconds_count"]) > 0
    assert f"{float(figures['seedbed_seed_accuracy']):.4f}" == accuracy
