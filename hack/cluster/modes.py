"""Which kind of cluster this machine can have, and why."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hack.cluster import network
from hack.cluster.errors import ClusterError
from hack.cluster.progress import progress

# Programs that a node needs, and the Debian packages that hold them.
NODE_PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "socat": "socat",
}
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
CNI_PACKAGE = "containernetworking-plugins"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Mode(StrEnum):
    """How a cluster comes to be."""

    EXISTING = "existing"
    KIND = "kind"
    NODE = "node"
    CONTROL_PLANE = "control-plane"


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine offers.

    Attributes:
        linux: Whether it runs Linux.
        root: Whether this process is root.
        docker: Whether a Docker engine answers.
        missing: Debian packages that a node needs and that are not installed.
        apt: Whether missing packages can be installed.
        foreign_node: What another Kubernetes node on this machine left in its firewall, or "".
    """

    linux: bool
    root: bool
    docker: bool
    missing: Sequence[str]
    apt: bool
    foreign_node: str = ""


def choose(machine: Machine, asked: Mode | None = None) -> tuple[Mode, str]:
    """The mode to take and the reason, in that order.

    Raises:
        ClusterError: The mode that was asked for cannot work here.
    """
    if asked is Mode.EXISTING or asked is Mode.CONTROL_PLANE:
        return asked, "asked for"
    if asked is Mode.KIND or (asked is None and machine.docker):
        if not machine.docker:
            raise ClusterError("mode kind: no Docker engine answers here")
        return Mode.KIND, "asked for" if asked else "a Docker engine answers"
    obstacle = node_obstacle(machine)
    if asked is Mode.NODE and obstacle:
        raise ClusterError(f"mode node: {obstacle}")
    if obstacle:
        return Mode.CONTROL_PLANE, f"no Docker engine answers, and no node is possible: {obstacle}"
    return Mode.NODE, "asked for" if asked else "no Docker engine answers, and this is root"


def node_obstacle(machine: Machine) -> str:
    """Why no node can run here, or the empty string."""
    if not machine.linux:
        return "this is not Linux"
    if not machine.root:
        return "this is not root"
    if machine.missing and not machine.apt:
        return f"these packages are missing: {' '.join(machine.missing)}"
    return machine.foreign_node


def inspect() -> Machine:
    """Look at this machine."""
    return Machine(
        linux=sys.platform == "linux",
        root=os.geteuid() == 0,
        docker=docker_answers(),
        missing=missing_packages(),
        apt=shutil.which("apt-get", path=SYSTEM_PATH) is not None,
        foreign_node=network.foreign_node() if shutil.which("iptables-save") else "",
    )


def missing_packages() -> list[str]:
    """Debian packages that a node needs and that are not installed."""
    missing = [
        package
        for program, package in NODE_PROGRAMS.items()
        if shutil.which(program, path=SYSTEM_PATH) is None
    ]
    return missing if cni_folder() else [*missing, CNI_PACKAGE]


def cni_folder() -> str | None:
    """The folder of the network plugins."""
    return next((f for f in CNI_FOLDERS if os.access(f"{f}/bridge", os.X_OK)), None)


def docker_answers() -> bool:
    """Whether a Docker engine (not only its client) is there."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    command = [docker, "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install(packages: Sequence[str]) -> None:
    """Install Debian packages; the package lists are refreshed only when that is needed.

    Raises:
        ClusterError: This is not Debian, not root, or the installation failed.
    """
    apt = shutil.which("apt-get", path=SYSTEM_PATH)
    if apt is None or os.geteuid() != 0:
        raise ClusterError(f"these packages are missing: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [apt, "install", "--yes", "--no-install-recommends", *packages]
    with progress(f"installing {' '.join(packages)}"):
        for command in (install, [apt, "update"], install):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment
            )
            if command is install and done.returncode == 0:
                return
    raise ClusterError(f"installing {' '.join(packages)} failed:\n{done.stderr.strip()}")
