"""Makes ready what the tests need beyond Python packages: the programs of a real Kubernetes.

The first time on a machine this builds them with Go, which takes minutes; later it takes no time.
Doing it here, and not in a fixture, shows the progress and keeps it out of any test's time limit.
"""

from __future__ import annotations

import os
import sys

from hack.cluster import ClusterError, binaries

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm")
NODE = ("etcdctl", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "pause")


def main() -> int:
    """Build what is missing; 1 where that is not possible here."""
    wanted = CONTROL_PLANE + (NODE if os.geteuid() == 0 else ())
    try:
        binaries.ensure(wanted)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
