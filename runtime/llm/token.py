"""The token by which a worker tells the model service whose it is."""

from __future__ import annotations

from pathlib import Path

TOKEN = Path("/var/run/secrets/seedbed/gateway/token")
"""Where a cluster puts it."""


def bearer() -> str:
    """The token as a header's value; empty where there is none, as in one process on one machine."""
    # Read each time: the kubelet replaces the token before it ends.
    try:
        return f"Bearer {TOKEN.read_text().strip()}"
    except OSError:
        return ""
