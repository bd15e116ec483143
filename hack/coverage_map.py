"""Lists which rows of the requirements catalogue have a test that proves them: `make coverage-map`.

A test claims rows with `@pytest.mark.req("SNK-06")`; the claims are read from the source, so nothing
has to run. Unknown ids are an error.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"


def catalogue() -> list[str]:
    """Every id of the catalogue, in its order."""
    return (TESTS / "requirement_ids.txt").read_text().split()


def marks(node: ast.AST) -> Iterator[str]:
    """Ids that the decorators of a test (or its class) claim."""
    for decorator in getattr(node, "decorator_list", []):
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.req":
            for argument in decorator.args:
                yield ast.literal_eval(argument)


def claims(source: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a claimed id and the test that claims it."""
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for row in marks(node):
                yield row, f"{source.relative_to(ROOT)}::{node.name}"


def main() -> int:
    """Print the map; 1 where a test claims a row that does not exist."""
    rows = catalogue()
    proofs: dict[str, list[str]] = defaultdict(list)
    for source in sorted(TESTS.rglob("test_*.py")):
        for row, test in claims(source):
            proofs[row].append(test)
    for row in rows:
        print(f"{row:<12} {', '.join(proofs[row]) if row in proofs else '-'}")
    unknown = sorted(set(proofs) - set(rows))
    for row in unknown:
        print(f"unknown row {row!r}: {', '.join(proofs[row])}", file=sys.stderr)
    print(f"{len(set(proofs) & set(rows))} of {len(rows)} rows have tests")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
