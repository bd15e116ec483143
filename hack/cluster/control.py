"""etcd, the API server, the controller manager and the scheduler as processes of this user.

Nothing here needs root. All serve on TLS with certificates of the cluster's own authority; etcd
asks its clients for one too. etcd does not wait for the disk (`--unsafe-no-fsync`): these
clusters are for development and tests, and a machine that loses power loses them.
"""

import http.client
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import binaries, kubeconfig, processes
from hack.cluster.api import Api
from hack.cluster.certificates import Authority, Pair, signing_key
from hack.cluster.processes import Process
from hack.cluster.state import State

LOOPBACK = "127.0.0.1"
DOMAIN = "cluster.local"


@dataclass(frozen=True, slots=True)
class Network:
    """Addresses of a cluster.

    Attributes:
        service_cidr: Range of the Services' addresses.
        pod_cidr: Range of the pods' addresses, for a cluster with a node.
        node_address: The node's address, or None for a control plane alone.
    """

    service_cidr: str
    pod_cidr: str
    node_address: str | None = None

    @property
    def first_service(self) -> str:
        """The address of the Service `kubernetes`."""
        return self._service(1)

    @property
    def dns(self) -> str:
        """The address of the cluster's DNS Service."""
        return self._service(10)

    def _service(self, index: int) -> str:
        head, _, tail = self.service_cidr.partition("/")[0].rpartition(".")
        return f"{head}.{int(tail) + index}"


CONTROL_PLANE_NETWORK = Network("10.96.0.0/16", "10.97.0.0/16")


@dataclass(frozen=True, slots=True)
class Control:
    """The control plane of one cluster.

    Attributes:
        state: The cluster's folder.
        network: Its addresses.
        tied: Whether its processes end when the starting process dies.
    """

    state: State
    network: Network
    tied: bool = False

    @property
    def run(self) -> Path:
        """The folder of process ids and logs."""
        return self.state.path("run")

    @property
    def pki(self) -> Path:
        """The folder of certificates."""
        return self.state.path("pki")

    @property
    def authority(self) -> Authority:
        """Signs everything but the aggregation layer's client certificate."""
        return Authority(self.pki, "ca")

    @property
    def port(self) -> int:
        """The API server's port."""
        return self.state.port("kube-apiserver")

    @property
    def url(self) -> str:
        """The API server's address on this machine."""
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def api(self) -> Api:
        """The API server, as administrator."""
        admin = self.authority.issue(
            "admin", common_name="seedbed-admin", groups=["system:masters"]
        )
        return Api(self.url, self.authority.pair.cert, admin)

    def client_config(self, name: str, user: str, groups: Sequence[str] = ()) -> Path:
        """The kubeconfig of one of the cluster's own parts."""
        client = self.authority.issue(name, common_name=user, groups=groups)
        config = kubeconfig.kubeconfig(name, self.url, self.authority.pair.cert, client)
        return kubeconfig.write(self.pki / f"{name}.kubeconfig", config)

    def up(self, *, controller_manager: bool = True, scheduler: bool = False) -> None:
        """Start what does not run, and wait until the API server serves."""
        names = ["etcd", "kube-apiserver", "kubectl"]
        names += ["kube-controller-manager"] if controller_manager else []
        names += ["kube-scheduler"] if scheduler else []
        binaries.ensure(names)
        self._start(self.etcd())
        self._start(self.apiserver())
        admin = self.api
        kubeconfig.write(
            self.state.kubeconfig,
            kubeconfig.kubeconfig(f"seedbed-{self.state.name}", self.url, admin.ca, admin.client),
        )
        later = []
        if controller_manager:
            later.append(self.controller_manager())
        if scheduler:
            later.append(self.scheduler())
        for process in later:
            processes.start(process, self.run)
        for process in later:
            processes.wait_ready(process, self.run)
        if controller_manager:
            # Pods are refused until the controller manager has made their service account.
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            processes.wait_until("the default service account", lambda: self.api.exists(account))

    def _start(self, process: Process) -> None:
        processes.start(process, self.run)
        processes.wait_ready(process, self.run)

    def etcd(self) -> Process:
        """The API server's etcd."""
        port, peer = self.state.port("etcd"), self.state.port("etcd-peer")
        pair = self.authority.issue("etcd", hosts=["localhost", LOOPBACK])
        return etcd_process(
            "etcd", self.state.path("etcd"), port, peer, Tls(self.authority, pair), tied=self.tied
        )

    def apiserver(self) -> Process:
        """The API server; reachable on every address in a cluster with a node."""
        node = self.network.node_address
        ca = self.authority.pair.cert
        hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        hosts += [f"kubernetes.default.svc.{DOMAIN}", LOOPBACK, self.network.first_service]
        serving = self.authority.issue("kube-apiserver", hosts=hosts + ([node] if node else []))
        etcd = self.authority.issue("apiserver-etcd-client")
        kubelet = self.authority.issue("apiserver-kubelet-client", groups=["system:masters"])
        front = Authority(self.pki, "front-proxy-ca")
        proxy = front.issue("front-proxy-client")
        tokens = signing_key(self.pki, "service-account")
        argv = [
            str(binaries.path("kube-apiserver")),
            f"--bind-address={'0.0.0.0' if node else LOOPBACK}",
            f"--secure-port={self.port}",
            f"--advertise-address={node or LOOPBACK}",
            # An endpoint on a loopback address is refused, so without a node none is written.
            f"--endpoint-reconciler-type={'lease' if node else 'none'}",
            f"--service-cluster-ip-range={self.network.service_cidr}",
            f"--etcd-servers=https://{LOOPBACK}:{self.state.port('etcd')}",
            f"--etcd-cafile={ca}",
            f"--etcd-certfile={etcd.cert}",
            f"--etcd-keyfile={etcd.key}",
            f"--tls-cert-file={serving.cert}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={ca}",
            f"--kubelet-client-certificate={kubelet.cert}",
            f"--kubelet-client-key={kubelet.key}",
            f"--kubelet-certificate-authority={ca}",
            f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
            f"--service-account-key-file={tokens.cert}",
            f"--service-account-signing-key-file={tokens.key}",
            f"--requestheader-client-ca-file={front.pair.cert}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={proxy.cert}",
            f"--proxy-client-key-file={proxy.key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
        ]
        return Process("kube-apiserver", argv, ready=self.api.ready, grace=15, tied=self.tied)

    def controller_manager(self) -> Process:
        """The controller manager."""
        port = self.state.port("kube-controller-manager")
        config = self.client_config("kube-controller-manager", "system:kube-controller-manager")
        authority = self.authority.pair
        argv = [
            str(binaries.path("kube-controller-manager")),
            *_component_flags(port, config),
            f"--root-ca-file={authority.cert}",
            f"--cluster-signing-cert-file={authority.cert}",
            f"--cluster-signing-key-file={authority.key}",
            f"--service-account-private-key-file={signing_key(self.pki, 'service-account').key}",
            "--use-service-account-credentials=true",
            f"--cluster-cidr={self.network.pod_cidr}",
        ]
        return Process("kube-controller-manager", argv, ready=_healthy(port), tied=self.tied)

    def scheduler(self) -> Process:
        """The scheduler."""
        port = self.state.port("kube-scheduler")
        config = self.client_config("kube-scheduler", "system:kube-scheduler")
        argv = [str(binaries.path("kube-scheduler")), *_component_flags(port, config)]
        return Process("kube-scheduler", argv, ready=_healthy(port), tied=self.tied)


@dataclass(frozen=True, slots=True)
class Tls:
    """How an etcd shows and asks for certificates."""

    authority: Authority
    pair: Pair


def etcd_process(
    name: str, data: Path, port: int, peer_port: int, tls: Tls | None, *, tied: bool = False
) -> Process:
    """An etcd of one member on the loopback address.

    Args:
        name: The process's name.
        data: Its data folder.
        port: Where clients connect.
        peer_port: Where it would talk to other members.
        tls: Certificates for the clients' side, which then must show one; None for plain HTTP.
        tied: Whether it ends when the starting process dies.
    """
    scheme = "https" if tls else "http"
    client, peer = f"{scheme}://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{peer_port}"
    argv = [
        str(binaries.path("etcd")),
        f"--name={name}",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={name}={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--auto-compaction-retention=10m",
    ]
    if tls:
        argv += [
            f"--cert-file={tls.pair.cert}",
            f"--key-file={tls.pair.key}",
            f"--trusted-ca-file={tls.authority.pair.cert}",
            "--client-cert-auth=true",
        ]
    return Process(name, argv, ready=_etcd_healthy(port, tls), tied=tied)


def _component_flags(port: int, config: Path) -> list[str]:
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        "--leader-elect=false",
    ]


def _healthy(port: int) -> Callable[[], bool]:
    """Ask the health address of a part that signs its own serving certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return lambda: _answers(http.client.HTTPSConnection(LOOPBACK, port, timeout=5, context=context))


def answers_http(port: int, path: str = "/healthz") -> Callable[[], bool]:
    """Ask a plain HTTP health address on the loopback address."""
    return lambda: _answers(http.client.HTTPConnection(LOOPBACK, port, timeout=5), path)


def control_status(control: Control) -> tuple[bool, list[str]]:
    """The processes that this cluster knows, and whether its API server serves."""
    names = processes.started_here(control.run)
    running = {name: processes.is_running(name, control.run) for name in names}
    serves = running.get("kube-apiserver", False) and control.api.ready()
    lines = [f"{name}: {'running' if running[name] else 'ended'}" for name in names]
    lines.append(f"API server {control.url}: {'serves' if serves else 'does not serve'}")
    return serves and all(running.values()), lines


def _etcd_healthy(port: int, tls: Tls | None) -> Callable[[], bool]:
    if tls is None:
        return answers_http(port, "/health")
    context = ssl.create_default_context(cafile=str(tls.authority.pair.cert))
    context.load_cert_chain(tls.pair.cert, tls.pair.key)
    return lambda: _answers(
        http.client.HTTPSConnection(LOOPBACK, port, timeout=5, context=context), "/health"
    )


def _answers(connection: http.client.HTTPConnection, path: str = "/healthz") -> bool:
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
