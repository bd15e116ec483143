"""A cluster with one real node: this machine.

Beside the control plane it runs containerd, kubelet, kube-proxy, a DNS server and a volume
provisioner as processes of root. `down` ends them, removes pods, mounts, network namespaces,
firewall chains and cgroups that they made, and sets back the kernel settings that were changed.
Images stay for the next time.
"""

import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hack.cluster import binaries, manifests, modes, network, processes
from hack.cluster.api import ApiError
from hack.cluster.containerd import PAUSE_IMAGE, Containerd, unmount_below
from hack.cluster.control import DOMAIN, LOOPBACK, Control, Network, answers_http, control_status
from hack.cluster.errors import ClusterError
from hack.cluster.processes import Process
from hack.cluster.progress import say
from hack.cluster.state import State, cache_root
from hack.image import oci

REPOSITORY = Path(__file__).parents[2]
RUN = Path("/run/seedbed")
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# Started after the control plane and ended before it.
AGENTS = ("kubelet", "kube-proxy", "coredns", "volumes")


class Node:
    """The cluster `state.name` with this machine as its node."""

    def __init__(self, state: State) -> None:
        self.state = state
        facts = state.facts()
        self.name = str(facts.get("node") or socket.gethostname().lower())
        saved = facts.get("network")
        self.network = Network(**saved) if saved else _choose_network()
        self.control = Control(state, self.network)
        self.containerd = Containerd(
            store=cache_root() / "containerd",
            state=RUN / state.name,
            config=state.path("containerd"),
            pod_cidr=self.network.pod_cidr,
        )

    def up(self) -> Path:
        """Start or repair everything; return the kubeconfig."""
        self._prepare()
        binaries.ensure(
            [*binaries.KUBERNETES, "etcd", "coredns", "pause"],
        )
        containerd = self.containerd.process()
        processes.start(containerd, self.control.run)
        self.control.up(scheduler=True)
        processes.wait_ready(containerd, self.control.run)
        self._load_pause()
        agents = [self._kubelet(), self._proxy(), self._dns(), self._volumes()]
        self._apply_objects()
        for agent in agents:
            processes.start(agent, self.control.run)
        for agent in agents:
            processes.wait_ready(agent, self.control.run)
        processes.wait_until(f"node {self.name}", self._node_ready, timeout=120)
        return self.state.kubeconfig

    def down(self) -> None:
        """End everything and remove what it made on this machine."""
        run = self.control.run
        if not processes.is_running("containerd", run):
            # Containers are ended through it, so it must be there once more.
            containerd = self.containerd.process()
            processes.start(containerd, run)
            processes.wait_ready(containerd, run)
        for name in ("kube-controller-manager", "kube-scheduler", *AGENTS):
            processes.stop(name, run, grace=5)
        self.containerd.remove_containers()
        for name in reversed(processes.started_here(run)):
            processes.stop(name, run)
        self.containerd.end_shims()
        unmount_below(self.containerd.state, self.state.folder)
        network.remove_bridge()
        network.remove_rules()
        _remove_cgroups()
        _remove_traces(self.state.folder, self.containerd.state)
        if self.state.facts().get("ip_forward") == "0":
            IP_FORWARD.write_text("0")

    def status(self) -> tuple[bool, list[str]]:
        """Which processes run, and whether the node is ready."""
        healthy, lines = control_status(self.control)
        ready = healthy and self._node_ready()
        lines.append(f"node {self.name}: {'ready' if ready else 'not ready'}")
        return ready, lines

    def load_images(self, archives: Sequence[Path]) -> None:
        """Import the images of OCI archives."""
        for archive in archives:
            self.containerd.load(archive)
            say(f"loaded {', '.join(oci.references(archive))}")

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            raise ClusterError("a cluster with a node is brought up and repaired by root")
        if missing := modes.missing_packages():
            modes.install(missing)
        facts = self.state.facts()
        if "node" not in facts:
            if obstacle := network.foreign_node():
                raise ClusterError(obstacle)
            self.state.record(
                node=self.name,
                network={
                    "service_cidr": self.network.service_cidr,
                    "pod_cidr": self.network.pod_cidr,
                    "node_address": self.network.node_address,
                },
                ip_forward=IP_FORWARD.read_text().strip(),
            )
        IP_FORWARD.write_text("1")

    def _load_pause(self) -> None:
        if PAUSE_IMAGE in self.containerd.images():
            return
        blobs = self.state.path("pause")
        layer = oci.layer_from_files({"pause": binaries.path("pause")}, blobs)
        image = oci.Image(PAUSE_IMAGE, [layer], {"Entrypoint": ["/pause"], "User": "65535:65535"})
        oci.write_archive(blobs / "pause.tar", [image])
        self.containerd.load(blobs / "pause.tar")

    def _apply_objects(self) -> None:
        assert self.network.node_address is not None
        objects = manifests.cluster_objects(
            self.network.dns, self.network.node_address, self.state.port("dns")
        )
        for path, body in objects.items():
            self.control.api.apply(path, body)

    def _node_ready(self) -> bool:
        try:
            node = self.control.api.request("GET", f"/api/v1/nodes/{self.name}")
        except ApiError:
            return False
        conditions = node["status"].get("conditions", [])
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return ready and not node["spec"].get("taints")

    def _kubelet(self) -> Process:
        port, health = self.state.port("kubelet"), self.state.port("kubelet-health")
        address = str(self.network.node_address)
        serving = self.control.authority.issue("kubelet-serving", hosts=[self.name, address])
        config = self.control.client_config("kubelet", f"system:node:{self.name}", ["system:nodes"])
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.control.authority.pair.cert)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "oomScoreAdj": 0,
            "clusterDNS": [self.network.dns],
            "clusterDomain": DOMAIN,
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            # Images come from no registry: one that was removed would not come back.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "50Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
            },
            "port": port,
            "healthzPort": health,
            "podLogsDir": str(self.state.path("pod-logs")),
            "resolvConf": "/etc/resolv.conf",
            "tlsCertFile": str(serving.cert),
            "tlsPrivateKeyFile": str(serving.key),
            "volumePluginDir": str(self.state.path("volume-plugins")),
        }
        argv = [
            str(binaries.path("kubelet")),
            f"--config={_settings(self.state, 'kubelet', settings)}",
            f"--kubeconfig={config}",
            f"--root-dir={self.state.path('kubelet')}",
            f"--hostname-override={self.name}",
            f"--node-ip={address}",
        ]
        environment = {"PATH": modes.SYSTEM_PATH}
        return Process("kubelet", argv, ready=answers_http(health), env=environment)

    def _proxy(self) -> Process:
        health = self.state.port("kube-proxy-health")
        config = self.control.client_config("kube-proxy", "system:kube-proxy")
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(config)},
            "clusterCIDR": self.network.pod_cidr,
            "conntrack": {"maxPerCore": 0},
            "hostnameOverride": self.name,
            "healthzBindAddress": f"{LOOPBACK}:{health}",
            "metricsBindAddress": f"{LOOPBACK}:{self.state.port('kube-proxy-metrics')}",
            "oomScoreAdj": 0,
        }
        argv = [
            str(binaries.path("kube-proxy")),
            f"--config={_settings(self.state, 'kube-proxy', settings)}",
        ]
        environment = {"PATH": modes.SYSTEM_PATH}
        return Process("kube-proxy", argv, ready=answers_http(health), env=environment)

    def _dns(self) -> Process:
        ready = self.state.port("dns-ready")
        config = self.control.client_config("coredns", manifests.DNS_USER)
        corefile = self.state.path("coredns") / "Corefile"
        corefile.write_text(
            f""".:{self.state.port("dns")} {{
    bind {self.network.node_address}
    acl {{
        allow net {self.network.pod_cidr} {self.network.node_address}/32 127.0.0.0/8
        block
    }}
    errors
    ready {LOOPBACK}:{ready}
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {config}
        fallthrough in-addr.arpa
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 30
}}
"""
        )
        argv = [str(binaries.path("coredns")), f"-conf={corefile}"]
        return Process("coredns", argv, ready=answers_http(ready, "/ready"))

    def _volumes(self) -> Process:
        client = self.control.authority.issue("volumes", common_name=manifests.VOLUMES_USER)
        argv = [
            *(sys.executable, "-m", "hack.cluster.volumes"),
            *(self.control.url, str(self.control.authority.pair.cert)),
            *(str(client.cert), str(client.key)),
            *(self.name, str(self.state.path("volumes"))),
        ]
        return Process("volumes", argv, env={"PYTHONPATH": str(REPOSITORY)})


def _choose_network() -> Network:
    used = network.ranges_in_use()
    address = network.node_address()
    services = network.free_range(network.SERVICE_CANDIDATES, used)
    pods = network.free_range(network.POD_CANDIDATES, [*used, services])
    return Network(services, pods, address)


def _settings(state: State, name: str, settings: dict[str, Any]) -> Path:
    path = state.path(name + "-config") / "config.json"
    text = json.dumps(settings, indent=2)
    # kube-proxy ends when its file is written to, also with what it holds already.
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def _remove_cgroups() -> None:
    """Remove the empty cgroups that kubelet made for pods."""
    hierarchy = Path("/sys/fs/cgroup")
    for root in [*hierarchy.glob("kubepods"), *hierarchy.glob("*/kubepods")]:
        for folder, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _remove_traces(folder: Path, state: Path) -> None:
    """Remove links to pods' logs, cached network results and the run folder."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(folder) in str(link.readlink()):
            link.unlink()
    results = Path("/var/lib/cni/results")
    for cached in results.glob("seedbed-*-eth0"):
        sandbox = cached.name.removeprefix("seedbed-").removesuffix("-eth0")
        for file in results.glob(f"*-{sandbox}-*"):
            file.unlink()
    shutil.rmtree(state, ignore_errors=True)
