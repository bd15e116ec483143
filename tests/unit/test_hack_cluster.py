"""The decisions of the local cluster: modes, address ranges, firewall clean-up, volumes."""

from pathlib import Path

import pytest

from hack.cluster import network, volumes
from hack.cluster.binaries import module_version
from hack.cluster.errors import ClusterError
from hack.cluster.modes import Machine, Mode, choose
from hack.cluster.state import State

NODE = Machine(linux=True, root=True, docker=False, missing=(), apt=True)


@pytest.mark.parametrize(
    ("machine", "mode"),
    [
        (NODE, Mode.NODE),
        (Machine(linux=True, root=True, docker=True, missing=(), apt=True), Mode.KIND),
        (Machine(linux=True, root=False, docker=False, missing=(), apt=True), Mode.CONTROL_PLANE),
        (Machine(linux=True, root=True, docker=False, missing=["runc"], apt=True), Mode.NODE),
        (
            Machine(linux=True, root=True, docker=False, missing=["runc"], apt=False),
            Mode.CONTROL_PLANE,
        ),
        (Machine(linux=False, root=True, docker=False, missing=(), apt=False), Mode.CONTROL_PLANE),
    ],
)
def test_the_mode_follows_from_the_machine(machine: Machine, mode: Mode) -> None:
    chosen, reason = choose(machine)
    assert chosen is mode
    assert reason


def test_a_node_is_refused_where_another_node_lives() -> None:
    machine = Machine(
        linux=True, root=True, docker=False, missing=(), apt=True, foreign_node="another node"
    )
    assert choose(machine)[0] is Mode.CONTROL_PLANE
    with pytest.raises(ClusterError, match="another node"):
        choose(machine, Mode.NODE)


def test_missing_packages_are_named_when_a_node_was_asked_for() -> None:
    machine = Machine(linux=True, root=True, docker=False, missing=["runc"], apt=False)
    with pytest.raises(ClusterError, match="runc"):
        choose(machine, Mode.NODE)


def test_kind_without_docker_is_refused() -> None:
    with pytest.raises(ClusterError, match="Docker"):
        choose(NODE, Mode.KIND)


def test_an_address_range_avoids_what_is_in_use() -> None:
    candidates = ["10.96.0.0/16", "10.98.0.0/16", "10.100.0.0/16"]
    used = ["10.96.7.0/24", "10.98.255.53", "192.0.2.0/24"]
    assert network.free_range(candidates, used) == "10.100.0.0/16"
    with pytest.raises(ClusterError):
        network.free_range(candidates, ["10.0.0.0/8"])


SAVED = """*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:CNI-0123 - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A KUBE-SERVICES -d 10.96.0.1/32 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
COMMIT
"""


def test_only_our_chains_are_removed_from_the_firewall() -> None:
    assert network.removal(SAVED).splitlines() == [
        "*nat",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-F KUBE-SERVICES",
        "-F CNI-0123",
        "-X KUBE-SERVICES",
        "-X CNI-0123",
        "COMMIT",
    ]


def test_a_clean_firewall_is_left_alone() -> None:
    assert network.removal("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n") == ""


def claim(uid: str, storage_class: str = "standard", phase: str = "Pending") -> dict:
    return {
        "metadata": {"uid": uid, "namespace": "team", "name": uid},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": phase},
    }


def test_each_waiting_claim_of_our_class_gets_one_volume() -> None:
    claims = [claim("a"), claim("b", "other"), claim("c", phase="Bound"), claim("d")]
    existing = volumes.volume_for(claim("d"), "node", Path("/data"))
    work = volumes.decide(claims, [existing], "node", Path("/data"))
    assert [volume["metadata"]["name"] for volume in work.create] == ["pvc-a"]
    assert work.create[0]["spec"]["claimRef"]["uid"] == "a"
    assert work.create[0]["spec"]["local"]["path"] == "/data/pvc-a"
    assert not work.remove


def test_only_our_released_volumes_are_removed() -> None:
    ours = volumes.volume_for(claim("a"), "node", Path("/data"))
    bound = volumes.volume_for(claim("b"), "node", Path("/data"))
    foreign = {"metadata": {"name": "x"}, "spec": {}, "status": {"phase": "Released"}}
    ours["status"], bound["status"] = {"phase": "Released"}, {"phase": "Bound"}
    work = volumes.decide([], [ours, bound, foreign], "node", Path("/data"))
    assert work.remove == ["pvc-a"]


def test_the_version_is_read_from_a_go_mod() -> None:
    text = "require (\n\tk8s.io/kubernetes v1.36.3\n\tk8s.io/klog/v2 v2.1.0 // indirect\n)\n"
    assert module_version(text, "k8s.io/kubernetes") == "v1.36.3"


@pytest.mark.parametrize("name", ["", "../x", "Dev", "-dev", "a" * 41])
def test_a_cluster_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ClusterError):
        State.of(name)


def test_ports_are_kept_between_commands(tmp_path: Path) -> None:
    state = State("x", tmp_path)
    first = state.port("a")
    assert State("x", tmp_path).port("a") == first
    assert state.port("b") != first
