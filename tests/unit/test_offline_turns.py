"""Which batches are worked through first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seedbed.runtime.llm.batch.offline.worker import in_turn
from seedbed.runtime.store.batches import BatchRow

ROW = BatchRow("", "", "", "", "", "", "/v1/embeddings", "", "{}", "in_progress", 0.0, 1.0)


@pytest.mark.req("COG-5.2.1")
def test_each_namespaces_first_comes_before_anybodys_second() -> None:
    arrived = ["a1", "a2", "a3", "b1", "c1", "b2"]
    rows = [replace(ROW, id=name, namespace=name[0]) for name in arrived]
    assert [row.id for row in in_turn(rows)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert in_turn([]) == []
