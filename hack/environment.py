"""Makes the project's Python environment, or its locks, with nothing but Python and pip to begin with.

    python3 hack/environment.py .venv     # the environment, from requirements/dev.lock
    python3 hack/environment.py --lock    # the locks, from pyproject.toml

The installer (uv) is itself pinned with a hash and kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
PYTHONS = ">=3.11,<3.15"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seedbed"
LOCKS = {
    "runtime": ["operator", "worker", "gateway"],
    "kernels": ["kernels"],
    "dev": ["operator", "worker", "gateway", "kernels", "dev"],
}


def installer() -> Path:
    """The pinned installer; fetched at most once for each lock of it."""
    lock = REQUIREMENTS / "bootstrap.lock"
    target = CACHE / "uv" / hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    program = target / "bin" / "uv"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
        subprocess.run([*command, "--target", str(target), "-r", str(lock)], check=True)
    return program


def make(venv: Path) -> None:
    """Make the environment exactly as the lock says, with the project itself as editable."""
    began = time.monotonic()
    print(f"Making the Python environment in {venv} ...", flush=True)
    uv = str(installer())
    python = str(venv / "bin" / "python")
    if not (venv / "bin" / "python").exists():
        subprocess.run([uv, "venv", "--quiet", "--python", PYTHONS, str(venv)], check=True)
    pip = [uv, "pip"]
    sync = [*pip, "sync", "--quiet", "--python", python, "--require-hashes"]
    subprocess.run([*sync, str(REQUIREMENTS / "dev.lock")], check=True)
    editable = ["install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *editable, "--editable", str(ROOT)], check=True)
    print(f"Python environment ready after {time.monotonic() - began:.0f} s", flush=True)


def lock() -> None:
    """Pin every dependency, with hashes and without the address it came from."""
    uv = str(installer())
    form = ["--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
    for name, extras in LOCKS.items():
        wanted = [part for extra in extras for part in ("--extra", extra)]
        same = [] if name == "runtime" else ["--constraint", str(REQUIREMENTS / "runtime.lock")]
        out = ["--output-file", str(REQUIREMENTS / f"{name}.lock")]
        command = [uv, "pip", "compile", *form, "--python-version", "3.11", *wanted, *same, *out]
        subprocess.run([*command, str(ROOT / "pyproject.toml")], check=True, cwd=ROOT)


if __name__ == "__main__":
    if sys.argv[1:] == ["--lock"]:
        lock()
    elif len(sys.argv) == 2:
        make(Path(sys.argv[1]))
    else:
        sys.exit(__doc__)
