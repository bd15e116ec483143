"""A cluster in memory: what the operator writes to when there is no API server.

It keeps to the API server's rules as far as Seedbed relies on them: `uid` stays for an object's
life, `generation` grows with the spec, `resourceVersion` with any change, a write that changes
nothing is no change, status is apart from the rest, and what an object owns goes with it.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from seedbed.controllers.plan import Event, Key, Raw
from seedbed.crds.errors import ConflictError, FencedError

Change = Literal["ADDED", "MODIFIED", "DELETED"]
Listener = Callable[[Change, Raw], None]

# The server's own part of the metadata: a writer cannot set it.
_SERVER_FIELDS = ("uid", "generation", "resourceVersion", "creationTimestamp")


def key_of(obj: Raw) -> Key:
    """The key of an object."""
    metadata = obj["metadata"]
    return Key(obj["kind"], metadata.get("namespace", "default"), metadata["name"])


@dataclass(frozen=True, slots=True)
class Recorded:
    """An Event of an object, with how often and when last."""

    about: Key
    event: Event
    count: int
    last: datetime


class MemoryCluster:
    """Holds objects, tells listeners of each change, in the order of the changes."""

    def __init__(self, objects: Iterable[Raw] = ()) -> None:
        self._objects: dict[Key, dict[str, Any]] = {
            key_of(obj): deepcopy(dict(obj)) for obj in objects
        }
        newest = max((int(_version(obj)) for obj in self._objects.values()), default=0)
        self._versions = itertools.count(newest + 1)
        self._listeners: list[Listener] = []
        self._events: dict[tuple[Key, Event], Recorded] = {}

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of every object there is, as ADDED, and then of every change."""
        for obj in list(self._objects.values()):
            listener("ADDED", deepcopy(obj))
        self._listeners.append(listener)

    def get(self, key: Key) -> Raw | None:
        """An object, or None."""
        found = self._objects.get(key)
        return None if found is None else deepcopy(found)

    def listed(self, kind: str | None = None) -> list[Raw]:
        """The objects of a kind, or all, by kind, namespace and name."""
        keys = sorted(key for key in self._objects if kind in (None, key.kind))
        return [deepcopy(self._objects[key]) for key in keys]

    def events(self, about: Key | None = None) -> list[Recorded]:
        """The Events of an object, or all, oldest first."""
        found = [one for one in self._events.values() if about in (None, one.about)]
        return sorted(found, key=lambda one: one.last)

    async def apply(self, obj: Raw) -> Raw:
        """Server-side apply by the only field manager there is: what is no longer said goes."""
        wanted = deepcopy(dict(obj))
        key = key_of(wanted)
        stored = self._objects.get(key)
        said = {k: v for k, v in wanted["metadata"].items() if k not in _SERVER_FIELDS}
        metadata = {"namespace": key.namespace, **said}
        if stored is None:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            mine = {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": now}
            wanted["metadata"] = {**metadata, **mine}
            wanted.pop("status", None)
            return self._store("ADDED", key, wanted)
        kept = {name: stored["metadata"][name] for name in _SERVER_FIELDS}
        wanted["metadata"] = {**metadata, **kept}
        wanted.pop("status", None)
        if "status" in stored:
            wanted["status"] = stored["status"]
        if wanted.get("spec") != stored.get("spec"):
            wanted["metadata"]["generation"] += 1
        return self._store("MODIFIED", key, wanted)

    async def apply_status(self, obj: Raw) -> Raw:
        """Replace an object's status; see `Cluster.apply_status`."""
        key = key_of(obj)
        stored = self._objects.get(key)
        uid = obj["metadata"].get("uid")
        if stored is None or uid not in (None, "", stored["metadata"]["uid"]):
            raise ConflictError(f"{key} is gone")
        status = deepcopy(obj["status"])
        mine = status.get("fencingToken", 0)
        newest = stored.get("status", {}).get("fencingToken", 0)
        if mine < newest:
            raise FencedError(str(key), mine, newest)
        return self._store("MODIFIED", key, {**stored, "status": status})

    async def delete(self, key: Key, uid: str) -> None:
        """Delete an object and what it owns."""
        stored = self._objects.get(key)
        if stored is None or stored["metadata"]["uid"] != uid:
            return
        del self._objects[key]
        self._tell("DELETED", stored)
        for owned in [one for one in self._objects.values() if uid in _owners(one)]:
            await self.delete(key_of(owned), owned["metadata"]["uid"])

    async def record(self, about: Raw, event: Event) -> None:
        """Keep an Event; the same one again is counted."""
        key, now = key_of(about), datetime.now(UTC)
        known = self._events.get((key, event), Recorded(key, event, 0, now))
        self._events[key, event] = replace(known, count=known.count + 1, last=now)

    def _store(self, change: Change, key: Key, obj: dict[str, Any]) -> Raw:
        stored = self._objects.get(key)
        if stored is not None:
            obj["metadata"] = {**obj["metadata"], "resourceVersion": _version(stored)}
        if obj != stored:
            obj["metadata"] = {**obj["metadata"], "resourceVersion": str(next(self._versions))}
            self._objects[key] = obj
            self._tell(change, obj)
        return deepcopy(obj)

    def _tell(self, change: Change, obj: Raw) -> None:
        for listener in self._listeners:
            listener(change, deepcopy(obj))


def _version(obj: Raw) -> str:
    version: str = obj["metadata"].get("resourceVersion", "0")
    return version


def _owners(obj: Raw) -> set[str]:
    return {owner["uid"] for owner in obj["metadata"].get("ownerReferences", ())}
