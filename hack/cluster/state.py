"""Where a cluster keeps its files, and the few facts that must survive between commands.

Everything lies under `${XDG_CACHE_HOME:-~/.cache}/seedbed/`: `bin/` holds built programs,
`images/` built images, `clusters/NAME/` one cluster each.
"""

import fcntl
import json
import os
import random
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster.errors import ClusterError

# Below the range from which the kernel takes ports for outgoing connections.
PORT_RANGE = (20_000, 30_000)
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def cache_root() -> Path:
    """The folder for everything that can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "seedbed"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; a second process waits until the first is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of every local address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class State:
    """One cluster's folder.

    Attributes:
        name: The cluster's name, as in `--name`.
        folder: Absolute path of the folder; created on demand.
    """

    name: str
    folder: Path

    @classmethod
    def of(cls, name: str) -> "State":
        """The state of the cluster `name`.

        Raises:
            ClusterError: The name is not made of lower-case letters, digits and dashes.
        """
        if not NAME.fullmatch(name):
            raise ClusterError(
                f"cluster name {name!r}: use at most 40 lower-case letters, digits and dashes"
            )
        return cls(name, cache_root() / "clusters" / name)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def exists(self) -> bool:
        """Whether the cluster was brought up before."""
        return (self.folder / "facts.json").exists()

    def path(self, *parts: str) -> Path:
        """A folder below this one, made when missing."""
        folder = self.folder.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let one command at a time change this cluster."""
        with locked(self.folder.parent / f".{self.name}.lock"):
            yield

    def facts(self) -> dict[str, Any]:
        """What was recorded: the mode, the ports, the address ranges."""
        file = self.folder / "facts.json"
        if not file.exists():
            return {}
        facts: dict[str, Any] = json.loads(file.read_text())
        return facts

    def record(self, **facts: Any) -> dict[str, Any]:
        """Add facts and return all of them."""
        merged = self.facts() | facts
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "facts.json.new"
        temporary.write_text(json.dumps(merged, indent=2))
        temporary.replace(self.folder / "facts.json")
        return merged

    def port(self, purpose: str) -> int:
        """The TCP port for `purpose`: chosen once, free at that time, and then kept."""
        ports: dict[str, int] = self.facts().get("ports", {})
        if purpose not in ports:
            taken = set(ports.values())
            candidates = (random.randrange(*PORT_RANGE) for _ in range(1000))
            ports[purpose] = next(p for p in candidates if p not in taken and port_is_free(p))
            self.record(ports=ports)
        return ports[purpose]

    def remove(self) -> None:
        """Forget the cluster."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder.parent / f".{self.name}.lock").unlink(missing_ok=True)


def names() -> list[str]:
    """The clusters that were brought up and not yet taken down."""
    folder = cache_root() / "clusters"
    return sorted(p.parent.name for p in folder.glob("*/facts.json"))
