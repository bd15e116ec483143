"""Writes what is made from the models: CRDs for the chart, and the reference pages.

    python -m seedbed.crds.generate            # writes
    python -m seedbed.crds.generate --check    # fails where a file differs, and shows how

It works in the current folder, which has to be the repository's root. A kind that is not installed
has a reference page and no CRD in the chart.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from seedbed.crds.base import GROUP
from seedbed.crds.kinds import KINDS, Kind
from seedbed.crds.reference import page
from seedbed.crds.schema import definition

CRDS = Path("charts/seedbed/files/crds")
PAGES = Path("docs/reference")
EXAMPLES = PAGES / "examples"
_HEADER = "# Made by `python -m seedbed.crds.generate` from the models in crds/; not for editing.\n"


def crd(kind: Kind) -> str:
    """The text of a kind's CRD file."""
    text = yaml.safe_dump(definition(kind), sort_keys=False, width=100, allow_unicode=True)
    return _HEADER + text


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """Every generated file with what belongs in it; the examples are read from `root`."""
    for kind in KINDS:
        yield root / CRDS / f"{kind.plural}.{GROUP}.yaml", crd(kind)
        name = kind.name.lower()
        example = (root / EXAMPLES / f"{name}.yaml").read_text()
        yield root / PAGES / f"{name}.md", page(kind, example)


def differences(root: Path) -> list[str]:
    """Lines of a unified diff between what the files hold and what belongs in them."""
    found: list[str] = []
    expected = dict(files(root))
    for path, text in expected.items():
        held = path.read_text() if path.exists() else ""
        found += difflib.unified_diff(
            held.splitlines(), text.splitlines(), str(path), f"{path} (generated)", lineterm=""
        )
    found += [
        f"{path}: no kind has this CRD"
        for path in sorted((root / CRDS).glob("*.yaml"))
        if path not in expected
    ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m seedbed.crds.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args(arguments).check
    root = Path()
    if check:
        found = differences(root)
        sys.stderr.writelines(f"{line}\n" for line in found)
        return 1 if found else 0
    for path, text in files(root):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
