"""Addresses that collide with nothing on this machine, and the firewall rules left behind.

The firewall functions take and give text in the form of `iptables-save`, so that they can be
tested without a firewall.
"""

import ipaddress
import json
import re
import socket
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hack.cluster.errors import ClusterError

BRIDGE = "seedbed0"
# Chains that kubelet, kube-proxy and the network plugins make.
CHAINS = ("KUBE-", "CNI-")
SERVICE_CANDIDATES = [f"10.{second}.0.0/16" for second in range(96, 128, 2)]
POD_CANDIDATES = [f"10.{second}.0.0/16" for second in range(97, 128, 2)]


def free_range(candidates: Iterable[str], used: Sequence[str]) -> str:
    """The first candidate that overlaps with none of the ranges or addresses in use.

    Raises:
        ClusterError: All candidates overlap.
    """
    taken = [ipaddress.ip_network(text, strict=False) for text in used]
    for candidate in candidates:
        network = ipaddress.ip_network(candidate)
        if not any(network.version == other.version and network.overlaps(other) for other in taken):
            return candidate
    raise ClusterError("every address range that a cluster could take is in use on this machine")


def ranges_in_use() -> list[str]:
    """What this machine routes, what its addresses are and what it asks for names."""
    found = []
    for route in _ip("route", "show", "table", "all"):
        if route.get("type") == "multicast" or route.get("dev") == BRIDGE:
            continue
        found += [str(route.get(key, "")) for key in ("dst", "gateway")]
    resolver = Path("/etc/resolv.conf").read_text()
    found += re.findall(r"^nameserver\s+(\S+)", resolver, re.MULTILINE)
    return [text for text in found if _is_ipv4(text)]


def node_address() -> str:
    """This machine's own address: the one from which it would reach the outside.

    Raises:
        ClusterError: It has only the loopback address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only asks for a route.
            probe.connect(("192.0.2.254", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            address = ""
    if address and not address.startswith("127."):
        return address
    for link in _ip("address", "show", "scope", "global"):
        for entry in link.get("addr_info", []):
            if entry.get("family") == "inet" and link.get("ifname") != BRIDGE:
                return str(entry["local"])
    raise ClusterError("this machine has no address beside the loopback address")


def foreign_node() -> str:
    """Why another Kubernetes node seems to live here, or the empty string."""
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False)
    if re.search(r"^:KUBE-SERVICES\b", saved.stdout, re.MULTILINE):
        return "another Kubernetes node's rules are in this machine's firewall (KUBE-SERVICES)"
    return ""


def removal(saved: str) -> str:
    """Turn the text of `iptables-save` into the restore text that removes our chains.

    Rules in other chains that lead into ours go first, then the chains are emptied, then deleted.
    """
    lines: list[str] = []
    table: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            table = [line]
        elif line == "COMMIT":
            if len(commands := _table_removal(table)) > 1:
                lines += [*commands, "COMMIT"]
        elif table:
            table.append(line)
    return "\n".join([*lines, ""]) if lines else ""


def remove_rules() -> None:
    """Remove the chains of kubelet, kube-proxy and the network plugins from the firewall."""
    for family in ("iptables", "ip6tables"):
        saved = subprocess.run([f"{family}-save"], capture_output=True, text=True, check=False)
        if text := removal(saved.stdout):
            command = [f"{family}-restore", "--noflush"]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ClusterError(f"{family}: {done.stderr.strip()}")


def remove_bridge() -> None:
    """Remove the pods' bridge, if there is one."""
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)


def _table_removal(table: list[str]) -> list[str]:
    chains = [line[1:].split()[0] for line in table if line.startswith(":")]
    ours = [chain for chain in chains if chain.startswith(CHAINS)]
    rules = [line for line in table if line.startswith("-A ")]
    foreign = [
        "-D" + rule.removeprefix("-A")
        for rule in rules
        if rule.split()[1] not in ours and re.search(r" -[jg] (KUBE-|CNI-)", rule)
    ]
    return [
        table[0],
        *foreign,
        *(f"-F {chain}" for chain in ours),
        *(f"-X {chain}" for chain in ours),
    ]


def _ip(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-j", *arguments], capture_output=True, text=True, check=False)
    entries: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return entries


def _is_ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_network(text, strict=False).version == 4
    except ValueError:
        return False
