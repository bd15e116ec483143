"""A real Kubernetes for development and tests, built from package registries alone.

On the command line, from the repository's root (`--name dev` unless given)::

    python -m hack.cluster up [--mode existing|kind|node|control-plane]
    python -m hack.cluster status
    eval "$(python -m hack.cluster env)"      # KUBECONFIG, and kubectl and helm on PATH
    python -m hack.cluster load-image FILE.tar
    python -m hack.cluster down

In tests::

    from hack.cluster import binaries, control_plane, etcd_server

    with control_plane() as cluster:          # etcd, API server, controller manager; no root
        cluster.kubeconfig                    # Path of the administrator's kubeconfig
        cluster.kubectl("get", "namespaces")  # its standard output
    with etcd_server() as etcd:               # an etcd of one's own, for the product
        etcd.endpoint                         # "127.0.0.1:23456"
        etcd.kill(); etcd.start()             # the same data, the same port
    binaries.path("etcdctl")                  # any program of the families, built on demand

The first `up` on a machine builds Kubernetes with Go (about 15 minutes on 2 cores); everything
built is kept under `${XDG_CACHE_HOME:-~/.cache}/seedbed/`.
"""

from hack.cluster.ephemeral import ControlPlane, EtcdServer, control_plane, etcd_server
from hack.cluster.errors import ClusterError

__all__ = ["ClusterError", "ControlPlane", "EtcdServer", "control_plane", "etcd_server"]
