"""Puts the parts together: a vault on a store, as a process is configured."""

from __future__ import annotations

from pathlib import Path

from seedbed.runtime.store.checkpoints import SqlCheckpoints
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.checkpoint.archive import Archive
from seedbed.runtime.workflow.checkpoint.keys import KeyRing
from seedbed.runtime.workflow.checkpoint.vault import Vault


def vault(store: SqlStore, keys: Path | None, url: str = "") -> Vault | None:
    """The vault under a key ring that exists; None where no key ring is set.

    Args:
        store: lists the checkpoints, and keeps them where there is no archive.
        keys: the key ring's file.
        url: the archive's; none where empty.

    Raises:
        InvalidError: the key ring cannot be read, or nothing serves the URL.
    """
    if keys is None:
        return None
    ring = KeyRing(keys)
    _ = ring.newest  # a process that cannot encrypt says so when it starts
    return Vault(SqlCheckpoints(store), ring, Archive(url) if url else None)
