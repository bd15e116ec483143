"""Checks the import contracts of pyproject.toml: `make lint`.

The linter finds only regular packages, and `operator/` must not be one (its `__init__.py` would shadow
the standard library's `operator`). So it looks at a mirror of links in a temporary folder, in which that
one file is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "hack" / "src" / "seedbed"


def mirror(target: Path) -> None:
    """Lay the package out in `target` as links to its files."""
    package = target / "seedbed"
    package.mkdir()
    for part in SOURCE.iterdir():
        if part.name == "operator":
            continue
        (package / part.name).symlink_to(part.resolve())
    operator = package / "operator"
    operator.mkdir()
    (operator / "__init__.py").touch()
    for module in (ROOT / "operator").glob("*.py"):
        (operator / module.name).symlink_to(module)


def main() -> int:
    """Run the linter on the mirror; its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        mirror(Path(folder))
        linter = Path(sys.executable).parent / "lint-imports"
        command = [str(linter), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        environment = {**os.environ, "PYTHONPATH": folder}
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
