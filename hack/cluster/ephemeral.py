"""Servers for the length of a test session: started by `with`, gone afterwards.

The kernel ends them even when the test process is killed, so no run leaves anything behind.
"""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import binaries, processes
from hack.cluster.control import CONTROL_PLANE_NETWORK, LOOPBACK, Control, Tls, etcd_process
from hack.cluster.errors import ClusterError
from hack.cluster.processes import Process
from hack.cluster.state import State


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running control plane without nodes.

    Attributes:
        name: The cluster's name.
        kubeconfig: The administrator's kubeconfig.
        url: The API server's address.
        ca: The authority of its certificate.
        folder: Everything of the cluster; logs are in `run/`.
    """

    name: str
    kubeconfig: Path
    url: str
    ca: Path
    folder: Path

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return its standard output.

        Raises:
            ClusterError: It failed; its standard error is in the message.
        """
        command = [str(binaries.path("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def control_plane(
    name: str | None = None, *, controller_manager: bool = True
) -> Iterator[ControlPlane]:
    """A real API server with its etcd, and the controller manager unless it is not wanted.

    Without the controller manager nothing collects garbage, makes default service accounts, ends
    namespaces or turns a Deployment into pods. No pod ever runs: there is no node.

    Args:
        name: The cluster's name; made up when missing, so that several sessions can run at once.
        controller_manager: Whether to start it.
    """
    state = State.of(name or f"test-{os.getpid()}-{secrets.token_hex(3)}")
    control = Control(state, CONTROL_PLANE_NETWORK, tied=True)
    if state.exists:
        raise ClusterError(f"a cluster named {state.name} exists already")
    try:
        state.record(mode="control-plane", ephemeral=True)
        control.up(controller_manager=controller_manager)
        yield ControlPlane(
            state.name,
            state.kubeconfig,
            control.url,
            control.authority.pair.cert,
            state.folder,
        )
    finally:
        for process in reversed(processes.started_here(control.run)):
            processes.stop(process, control.run, grace=3)
        state.remove()


@dataclass(frozen=True, slots=True)
class EtcdServer:
    """An etcd of one member on the loopback address.

    Attributes:
        host: Its address.
        port: Its client port.
        folder: Its data, its log, and `pki/` when it speaks TLS.
        process: How it is started.
    """

    host: str
    port: int
    folder: Path
    process: Process

    @property
    def endpoint(self) -> str:
        """`HOST:PORT`."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id, for signals."""
        return processes.pid(self.process.name, self.folder)

    def start(self) -> None:
        """Start it again on its data, and wait until it serves."""
        processes.start(self.process, self.folder)
        processes.wait_ready(self.process, self.folder)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        processes.stop(self.process.name, self.folder, grace=0)


@contextmanager
def etcd_server(*, tls: bool = False) -> Iterator[EtcdServer]:
    """An etcd in a temporary folder.

    Args:
        tls: Serve TLS and ask clients for a certificate; `folder/pki` then holds `ca.crt` and a
            client's `client.crt` and `client.key`.
    """
    with tempfile.TemporaryDirectory(prefix="seedbed-etcd-") as temporary:
        folder = Path(temporary)
        state = State("etcd", folder)
        certificates = None
        if tls:
            authority = Control(state, CONTROL_PLANE_NETWORK).authority
            authority.issue("client")
            server = authority.issue("etcd", hosts=["localhost", LOOPBACK])
            certificates = Tls(authority, server)
        port, peer = state.port("etcd"), state.port("etcd-peer")
        process = etcd_process("etcd", folder / "data", port, peer, certificates, tied=True)
        server_ = EtcdServer(LOOPBACK, port, folder, process)
        try:
            server_.start()
            yield server_
        finally:
            processes.stop("etcd", folder, grace=3)
