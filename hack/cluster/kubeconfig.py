"""Kubeconfig files, written as JSON, which is YAML too."""

import json
import os
from pathlib import Path
from typing import Any

from hack.cluster.certificates import Pair


def kubeconfig(name: str, url: str, ca: Path, client: Pair) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user and one context, all called `name`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate": str(client.cert),
                    "client-key": str(client.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def write(path: Path, config: dict[str, Any]) -> Path:
    """Write a kubeconfig that only its owner can read."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(config, file, indent=2)
    temporary.replace(path)
    return path
