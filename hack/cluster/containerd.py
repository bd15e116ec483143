"""The containers' daemon of a node: its own root, state and socket, apart from any other.

The image store lies outside the cluster's folder and stays when the cluster goes, so that the
next one finds its images.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import modes, processes
from hack.cluster.errors import ClusterError
from hack.cluster.network import BRIDGE
from hack.cluster.processes import Process
from hack.cluster.progress import progress
from hack.image import oci

PAUSE_IMAGE = "seedbed.local/pause:1"
NAMESPACE = "k8s.io"


@dataclass(frozen=True, slots=True)
class Containerd:
    """One containerd.

    Attributes:
        store: Images and snapshots; kept.
        state: Sockets, mounts and network namespaces; a short path, as sockets need one.
        config: The folder of its configuration.
        pod_cidr: Range of the pods' addresses.
    """

    store: Path
    state: Path
    config: Path
    pod_cidr: str

    @property
    def socket(self) -> Path:
        """Where it serves."""
        return self.state / "containerd.sock"

    def process(self) -> Process:
        """The daemon."""
        for folder in (self.store, self.state, self.config / "cni"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.config / "containerd.toml").write_text(self._settings())
        (self.config / "cni" / "10-seedbed.conflist").write_text(self._cni())
        program = shutil.which("containerd", path=modes.SYSTEM_PATH)
        assert program is not None
        argv = [program, f"--config={self.config / 'containerd.toml'}", "--log-level=warn"]
        environment = {"PATH": modes.SYSTEM_PATH}
        return Process("containerd", argv, ready=self._answers, env=environment)

    def load(self, archive: Path) -> None:
        """Import the images of an OCI archive; layers that are here already are not read."""
        present = set(self._ctr("content", "list", "--quiet").split())
        for skip in (present, set[str]()):
            with progress(f"importing {archive.name}"):
                complaint = self._import(archive, skip)
            if not complaint:
                return
        raise ClusterError(f"importing {archive}: {complaint}")

    def images(self) -> list[str]:
        """The names of the images."""
        return self._ctr("images", "list", "--quiet").split()

    def remove_containers(self) -> None:
        """End every container at once and forget it.

        Raises:
            ClusterError: Some are left after half a minute.
        """
        processes.wait_until("the end of all pods", self._without_containers, timeout=30)

    def _without_containers(self) -> bool:
        # The daemon removes ended tasks too, so one that was listed may be gone when its turn
        # comes; what counts is that none is left.
        for kind, delete in (("tasks", ["delete", "--force"]), ("containers", ["delete"])):
            if found := self._ctr(kind, "list", "--quiet").split():
                command = self._command(kind, *delete, *found)
                subprocess.run(command, capture_output=True, check=False)
        return not self._ctr("containers", "list", "--quiet").split()

    def end_shims(self) -> None:
        """End the shims that still serve this daemon, known by its socket in their arguments."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"containerd-shim" in argv[0] and os.fsencode(self.socket) in argv:
                os.kill(int(entry.name), signal.SIGKILL)

    def _import(self, archive: Path, skip: set[str]) -> str:
        command = self._command("images", "import", "--digests=false", "-")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as child:
            assert child.stdin is not None
            assert child.stderr is not None
            try:
                oci.copy_archive(archive, child.stdin, skip)
                child.stdin.close()
            except BrokenPipeError:
                pass
            complaint = child.stderr.read().decode().strip()
        return complaint or "it failed" if child.returncode != 0 else ""

    def _answers(self) -> bool:
        command = self._command("plugins", "list")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        cri = [line.split() for line in done.stdout.splitlines() if " cri " in line]
        return any(words[-1] == "ok" for words in cri)

    def _command(self, *arguments: str) -> list[str]:
        program = shutil.which("ctr", path=modes.SYSTEM_PATH)
        assert program is not None
        return [program, f"--address={self.socket}", f"--namespace={NAMESPACE}", *arguments]

    def _ctr(self, *arguments: str) -> str:
        done = subprocess.run(
            self._command(*arguments), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ClusterError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _settings(self) -> str:
        return f"""version = 2
root = "{self.store}"
state = "{self.state}/containerd"

[grpc]
address = "{self.socket}"

[debug]
address = "{self.state}/debug.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "{self.store}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
stream_server_address = "127.0.0.1"
netns_mounts_under_state_dir = true
# Where this machine's AppArmor or the right to lower OOM scores is missing, do without.
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{modes.cni_folder()}"
conf_dir = "{self.config}/cni"
"""

    def _cni(self) -> str:
        return f"""{{
  "cniVersion": "0.4.0",
  "name": "seedbed",
  "plugins": [
    {{
      "type": "bridge",
      "bridge": "{BRIDGE}",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {{
        "type": "host-local",
        "dataDir": "{self.state}/addresses",
        "ranges": [[{{"subnet": "{self.pod_cidr}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
  ]
}}
"""


def unmount_below(*folders: Path) -> None:
    """Unmount whatever is mounted in these folders, the deepest first."""
    prefixes = tuple(f"{folder}/" for folder in folders)
    for _ in range(20):
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = sorted((mount for mount in mounts if mount.startswith(prefixes)), key=len)
        if not ours:
            return
        for mount in reversed(ours):
            subprocess.run(["umount", mount], capture_output=True, check=False)
        time.sleep(processes.POLL)
    for mount in reversed(ours):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
