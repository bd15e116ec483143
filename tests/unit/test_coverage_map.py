"""Tests claim rows that the catalogue has."""

from __future__ import annotations

import pytest

from hack import coverage_map


def test_no_test_claims_a_row_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert coverage_map.main() == 0, capsys.readouterr().err
