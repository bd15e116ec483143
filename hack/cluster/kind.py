"""A cluster in Docker containers, by kind, where a Docker engine runs."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import binaries
from hack.cluster.errors import ClusterError
from hack.cluster.progress import progress
from hack.cluster.state import State


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind cluster; its kubeconfig lies in our folder, the user's own is left alone."""

    state: State

    @property
    def cluster(self) -> str:
        """The cluster's name to kind."""
        return f"seedbed-{self.state.name}"

    def up(self) -> Path:
        """Create the cluster unless it exists."""
        binaries.ensure(["kubectl"])
        if self.cluster not in self._kind("get", "clusters").split():
            with progress("creating the kind cluster"):
                self._kind("create", "cluster", "--name", self.cluster, "--wait", "120s")
        else:
            self._kind("export", "kubeconfig", "--name", self.cluster)
        return self.state.kubeconfig

    def down(self) -> None:
        """Delete the cluster."""
        self._kind("delete", "cluster", "--name", self.cluster)

    def status(self) -> tuple[bool, list[str]]:
        """Whether kind knows the cluster."""
        nodes = self._kind("get", "nodes", "--name", self.cluster).split()
        return bool(nodes), [f"node {node}" for node in nodes] or ["no nodes"]

    def load_images(self, archives: Sequence[Path]) -> None:
        """Copy image archives into the nodes."""
        for archive in archives:
            with progress(f"loading {archive.name}"):
                self._kind("load", "image-archive", str(archive), "--name", self.cluster)

    def _kind(self, *arguments: str) -> str:
        program = shutil.which("kind") or str(binaries.path("kind"))
        command = [program, *arguments]
        if arguments[0] in {"create", "export", "delete"}:
            command += ["--kubeconfig", str(self.state.kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"kind {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
