"""A cluster that somebody else runs: only looked at, never changed or ended."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import binaries
from hack.cluster.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Existing:
    """The cluster of a kubeconfig.

    Attributes:
        kubeconfig: Its path.
    """

    kubeconfig: Path

    def up(self) -> Path:
        """Check that the cluster answers.

        Raises:
            ClusterError: It does not.
        """
        healthy, lines = self.status()
        if not healthy:
            raise ClusterError("\n".join(lines))
        return self.kubeconfig

    def down(self) -> None:
        """Leave it as it is."""

    def status(self) -> tuple[bool, list[str]]:
        """Whether its API server says that it is ready."""
        if not self.kubeconfig.is_file():
            return False, [f"no kubeconfig at {self.kubeconfig}"]
        kubectl = binaries.path("kubectl")
        command = [str(kubectl), f"--kubeconfig={self.kubeconfig}", "get", "--raw=/readyz"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode == 0, [(done.stdout or done.stderr).strip()]

    def load_images(self, archives: Sequence[Path]) -> None:
        """Only the cluster's owner knows how images reach it."""
        names = ", ".join(str(archive) for archive in archives)
        raise ClusterError(
            f"push {names} to a registry that this cluster can pull from, "
            "and give its name to the chart"
        )
