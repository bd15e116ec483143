"""The objects that every cluster with a node needs before anything is installed in it."""

from typing import Any

STORAGE_CLASS = "standard"
PROVISIONER = "seedbed.dev/local"
DNS_USER = "seedbed:dns"
VOLUMES_USER = "seedbed:volumes"


def cluster_objects(
    dns_address: str, node_address: str, dns_port: int
) -> dict[str, dict[str, Any]]:
    """API path to object, in the order in which they are applied."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    system = "/api/v1/namespaces/kube-system"
    slices = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
    return {
        f"{rbac}/clusterroles/{DNS_USER}": _role(
            DNS_USER,
            _rule("", ["services", "endpoints", "pods", "namespaces"], ["list", "watch"]),
            _rule("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
        ),
        f"{rbac}/clusterrolebindings/{DNS_USER}": _binding(DNS_USER),
        f"{rbac}/clusterroles/{VOLUMES_USER}": _role(
            VOLUMES_USER,
            _rule("", ["persistentvolumeclaims"], ["list"]),
            _rule("", ["persistentvolumes"], ["list", "create", "delete"]),
        ),
        f"{rbac}/clusterrolebindings/{VOLUMES_USER}": _binding(VOLUMES_USER),
        f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}": _storage_class(),
        f"{system}/services/kube-dns": _dns_service(dns_address),
        f"{slices}/kube-dns-host": _dns_endpoints(node_address, dns_port),
    }


def _rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _role(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": list(rules),
    }


def _binding(user: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }


def _storage_class() -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def _dns_service(address: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "clusterIP": address,
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53},
            ],
        },
    }


def _dns_endpoints(address: str, port: int) -> dict[str, Any]:
    """The Service has no pods: the DNS server is a process of the host."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-host",
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "seedbed-cluster",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [
            {"name": "dns", "protocol": "UDP", "port": port},
            {"name": "dns-tcp", "protocol": "TCP", "port": port},
        ],
    }
