"""A TLS context from a kubeconfig with a client certificate."""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml


@contextmanager
def tls_of(kubeconfig: Path) -> Iterator[ssl.SSLContext]:
    """The context of the first cluster and the first user of a kubeconfig."""
    found = yaml.safe_load(kubeconfig.read_text())
    cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
    with tempfile.TemporaryDirectory(prefix="seedbed-tls-") as temporary:
        folder = Path(temporary)
        context = ssl.create_default_context(cafile=_file(cluster, "certificate-authority", folder))
        context.load_cert_chain(
            _file(user, "client-certificate", folder), _file(user, "client-key", folder)
        )
        yield context


def _file(entry: dict[str, Any], name: str, folder: Path) -> str:
    if name in entry:
        return str(entry[name])
    file = folder / name
    file.write_bytes(base64.b64decode(entry[f"{name}-data"]))
    return str(file)
