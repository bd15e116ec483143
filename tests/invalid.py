"""Manifests that must be refused, each with the field and the words of the refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.crds.base import API_VERSION

FOLDER = Path(__file__).parent / "integration" / "invalid"


@dataclass(frozen=True, slots=True)
class Invalid:
    """One manifest; `by` says who refuses it on a cluster."""

    name: str
    field: str
    says: str
    by: str
    object: dict[str, Any]
    only_server: bool


def invalid(by: str = "") -> list[Any]:
    """All of them, or those that `by` refuses, as parameters of a test."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for at, entry in enumerate(yaml.safe_load(path.read_text())):
            name = f"{path.stem}-{at}"
            manifest = {"apiVersion": API_VERSION, "metadata": {"name": name}, **entry["object"]}
            each = Invalid(
                name,
                entry["field"],
                entry["says"],
                entry["by"],
                manifest,
                entry.get("only_server", False),
            )
            if by in ("", each.by):
                found.append(pytest.param(each, id=f"{name}-{each.field}"))
    return found
