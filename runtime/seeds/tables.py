"""Training data as text: a CSV table, or JSON lines.

    petal,sepal,target,split        the first line names the columns; `target` is what is learnt,
    1.4,5.1,0,train                 `split` and `route` may be missing, all others are the inputs
    4.7,7.0,1,test

    {"inputs": [1.4, 5.1], "target": 0}
    {"inputs": [4.7, 7.0], "target": 1, "split": "test"}

`split` says `train` or `test`: what is tested on is never learnt from. Without it every fifth row is.
`route` is the seed of a row, with routing by token. A wrong line is one error that says which.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError

FORMATS = (".csv", ".jsonl")
_BESIDE = ("target", "split", "route")
_SPLITS = ("train", "test")
_HELD_OUT = 5


def read_table(path: Path, field: str) -> dict[str, Tensor]:
    """The arrays of a file: inputs, targets, test_inputs, test_targets, and the routes where there are any.

    Args:
        path: of a CSV file or one of JSON lines, by its ending.
        field: of the spec, for errors.

    Raises:
        InvalidError: a line is wrong; says which.
    """
    lines = _csv if path.suffix == ".csv" else _json_lines
    rows: list[dict[str, Any]] = []
    number = 1
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in lines(file):  # noqa: B007 - for the error
                rows.append(_checked(row, rows[0] if rows else row))
    except (ValueError, TypeError, ArithmeticError, RecursionError, csv.Error) as error:
        raise InvalidError(field, f"line {number} or the one after it: {error}") from error
    return _arrays(rows)


def _arrays(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for prefix, test in (("", False), ("test_", True)):
        part = [row for at, row in enumerate(rows) if _is_test(row, at) is test]
        for name, key in (("inputs", "inputs"), ("targets", "target"), ("route", "route")):
            if part and key in part[0]:
                values = np.asarray([row[key] for row in part], dtype=np.float64)
                whole = key != "inputs" and bool((values == np.floor(values)).all())
                found[prefix + name] = torch.from_numpy(
                    values.astype(np.int64 if whole else np.float32)
                )
    return found


def _is_test(row: Mapping[str, Any], at: int) -> bool:
    split = row.get("split")
    return at % _HELD_OUT == _HELD_OUT - 1 if split is None else bool(split == "test")


def _checked(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """A row like the first one.

    Raises:
        ValueError: it is none.
    """
    if row.keys() != first.keys():
        raise ValueError(f"expected {', '.join(sorted(first))} as in the first row")
    if row.get("split", "train") not in _SPLITS:
        raise ValueError(f"split: expected train or test, got {row['split']!r}")
    for key in ("inputs", "target", "route"):
        if key in row:
            mine, its = (np.asarray(each[key], dtype=np.float64) for each in (row, first))
            if mine.shape != its.shape:
                expected = f"expected the shape {its.shape} of the first row"
                raise ValueError(f"{key}: {expected}, got {mine.shape}")
    return row


def _csv(file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    table = csv.DictReader(file, strict=True)
    names = table.fieldnames or []
    if "target" not in names or set(names) <= set(_BESIDE):
        raise ValueError("the first one names the columns: `target`, and at least one input")
    inputs = [name for name in names if name not in _BESIDE]
    for row in table:
        if None in row or None in row.values():
            raise ValueError(f"expected {len(names)} columns")
        beside = {name: _number(row, name) for name in ("target", "route") if name in names}
        split = {"split": row["split"].strip()} if "split" in names else {}
        yield table.line_num, {"inputs": [_number(row, name) for name in inputs], **beside, **split}


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        return float(row[name])
    except ValueError as error:
        raise ValueError(f"{name}: {row[name]!r} is no number") from error


def _json_lines(file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict) or not {"inputs", "target"} <= row.keys():
            raise ValueError("expected an object with inputs and target")
        yield number, row
