"""One cluster from the outside: up, down, status, environment, images; whatever its mode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from hack.cluster import binaries, modes, processes
from hack.cluster.control import CONTROL_PLANE_NETWORK, Control, control_status
from hack.cluster.errors import ClusterError
from hack.cluster.existing import Existing
from hack.cluster.kind import Kind
from hack.cluster.modes import Mode
from hack.cluster.node import Node
from hack.cluster.progress import say
from hack.cluster.state import State


class Kubernetes(Protocol):
    """What each mode knows to do."""

    def up(self) -> Path:
        """Bring it up or repair it; return the kubeconfig."""

    def down(self) -> None:
        """End what `up` started."""

    def status(self) -> tuple[bool, list[str]]:
        """Whether all is well, and lines for a person."""

    def load_images(self, archives: Sequence[Path]) -> None:
        """Make the images of OCI archives available to pods."""


class ControlPlaneOnly:
    """A control plane without nodes, as processes of this user."""

    def __init__(self, state: State) -> None:
        self.control = Control(state, CONTROL_PLANE_NETWORK)

    def up(self) -> Path:
        """Start etcd, the API server and the controller manager."""
        self.control.up()
        return self.control.state.kubeconfig

    def down(self) -> None:
        """End them."""
        for process in reversed(processes.started_here(self.control.run)):
            processes.stop(process, self.control.run)

    def status(self) -> tuple[bool, list[str]]:
        """Which of them run, and whether the API server serves."""
        return control_status(self.control)

    def load_images(self, archives: Sequence[Path]) -> None:
        """Nothing can run an image here."""
        raise ClusterError(f"a control plane without nodes runs no images: {archives[0]}")


def up(name: str, asked: Mode | None, kubeconfig: Path | None) -> Path:
    """Bring the cluster `name` up, or repair it; return its kubeconfig.

    Raises:
        ClusterError: It cannot be done, or it is up in another mode.
    """
    state = State.of(name)
    with state.lock():
        facts = state.facts()
        if not facts:
            mode, reason = modes.choose(modes.inspect(), asked)
            if mode is Mode.EXISTING and kubeconfig is None:
                raise ClusterError("mode existing: give --kubeconfig or set KUBECONFIG")
            facts = state.record(
                mode=mode.value,
                reason=reason,
                kubeconfig=str(kubeconfig.resolve()) if kubeconfig else None,
            )
        elif asked is not None and facts["mode"] != asked.value:
            raise ClusterError(f"cluster {name} is up in mode {facts['mode']}: take it down first")
        say(f"cluster {name}: mode {facts['mode']} ({facts['reason']})")
        return _kubernetes(state, facts).up()


def down(name: str) -> bool:
    """End the cluster and forget it; return whether there was one."""
    state = State.of(name)
    if not state.exists:
        return False
    with state.lock():
        _kubernetes(state, state.facts()).down()
        state.remove()
    return True


def status(name: str) -> tuple[bool, list[str]]:
    """Whether all is well, and lines for a person."""
    state = State.of(name)
    if not state.exists:
        return False, [f"cluster {name} is not up"]
    facts = state.facts()
    healthy, lines = _kubernetes(state, facts).status()
    return healthy, [f"cluster {name}: mode {facts['mode']} ({facts['reason']})", *lines]


def environment(name: str) -> tuple[Path, list[Path]]:
    """The kubeconfig, and the folders of kubectl and helm where they were built."""
    state = State.of(name)
    if not state.exists:
        raise ClusterError(f"cluster {name} is not up")
    config = Path(state.facts().get("kubeconfig") or state.kubeconfig)
    folders = [binaries.family_folder(binaries.family_of(tool)) for tool in ("kubectl", "helm")]
    return config, [folder for folder in folders if folder.exists()]


def load_images(name: str, archives: Sequence[Path]) -> None:
    """Make the images of OCI archives available to the cluster's pods."""
    state = State.of(name)
    if not state.exists:
        raise ClusterError(f"cluster {name} is not up")
    if absent := [str(archive) for archive in archives if not archive.is_file()]:
        raise ClusterError(f"no such file: {', '.join(absent)}")
    with state.lock():
        _kubernetes(state, state.facts()).load_images(archives)


def _kubernetes(state: State, facts: dict[str, Any]) -> Kubernetes:
    match Mode(facts["mode"]):
        case Mode.EXISTING:
            return Existing(Path(facts["kubeconfig"]))
        case Mode.KIND:
            return Kind(state)
        case Mode.NODE:
            return Node(state)
        case Mode.CONTROL_PLANE:
            return ControlPlaneOnly(state)
