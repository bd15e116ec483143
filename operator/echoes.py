"""Own writes come back on the watch; this tells them from what others did.

An echo often arrives before the write's answer. Taken as news it would cost each object one more look
for each write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from seedbed.controllers.plan import Key, Raw
from seedbed.controllers.pods import key_of
from seedbed.operator.cache import owner_of, slim
from seedbed.operator.registration import REGISTRATIONS


class Notice(Protocol):
    """Takes what a watch has shown."""

    def __call__(self, obj: Raw, *, deleted: bool = False) -> None:
        """See `Reconciler.notice`."""
        ...


class Echoes:
    """Keeps what the watch shows of an object that is being written, until the server has answered.

    Behind the answer an echo is nothing new, since the cache ignores what is not newer.

    Args:
        notice: is given what was kept, once the write is over.
    """

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._kept: dict[Key, list[tuple[Raw, bool]]] = {}

    @contextmanager
    def writing(self, key: Key) -> Iterator[None]:
        """The time of one write, the taking of its answer included."""
        self._kept[key] = []
        try:
            yield
        finally:
            for obj, deleted in self._kept.pop(key):
                self._notice(obj, deleted=deleted)

    def keep(self, obj: Raw, *, deleted: bool) -> bool:
        """Keep it for later where the object is being written; whether it was kept."""
        kept = self._kept.get(key_of(obj))
        if kept is None:
            return False
        kept.append((obj, deleted))
        return True


def own_doing(before: Raw | None, stored: Raw) -> set[Key]:
    """Who need not look, since the answer to a write holds nothing but the write.

    Where somebody else has changed the object meanwhile, nobody: the watch's event of that change is
    older than the answer and will be ignored.
    """
    key = key_of(stored)
    if key.kind in REGISTRATIONS:
        return {key} if before is None or _asked(before) == _asked(stored) else set()
    owner = owner_of(stored)
    return {owner} if owner is not None and _reported(before) == _reported(stored) else set()


def _asked(obj: Raw) -> tuple[object, object]:
    """What users say by an object: its spec, and its metadata but for what counts writes."""
    metadata = {n: v for n, v in slim(obj)["metadata"].items() if n != "resourceVersion"}
    return metadata, obj.get("spec")


def _reported(child: Raw | None) -> Raw:
    """What Kubernetes reports of a child."""
    found: Raw = (child or {}).get("status") or {}
    return found
