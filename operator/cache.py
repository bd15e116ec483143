"""What the watches have shown: objects by key, children by owner, dependents by reference.

Kept by the operator itself because a framework's index is rebuilt on every event. An object that is
older than the one held is ignored, so the answer to an own write may be stored at once and its echo on
the watch does nothing. Neither does a page of a list, which shows what was there when it was read: it
brings back nothing that has gone since, and nothing that another object of the name has replaced.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from seedbed.controllers.plan import Key, Raw
from seedbed.controllers.pods import key_of
from seedbed.operator.registration import CHILDREN, REGISTRATIONS

_BEFORE_ALL = -1
_DROPPED_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration",)


def slim(obj: Raw) -> dict[str, Any]:
    """The object without what no reconciler reads: it is held in memory for every object."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    if annotations := metadata.get("annotations"):
        kept = {n: v for n, v in annotations.items() if n not in _DROPPED_ANNOTATIONS}
        metadata["annotations"] = kept
    return {**obj, "metadata": metadata}


def owner_of(obj: Raw) -> Key | None:
    """The object of ours that owns a child."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner["kind"] in REGISTRATIONS:
            return Key(owner["kind"], obj["metadata"]["namespace"], owner["name"])
    return None


@dataclass(frozen=True, slots=True)
class _Held:
    """An object as it is held: JSON takes a tenth of the memory of dictionaries.

    Children, which are large and change seldom, are packed to a third of that.
    """

    uid: str
    version: int
    owner: Key | None
    packed: bool
    body: bytes

    def read(self) -> dict[str, Any]:
        body = zlib.decompress(self.body) if self.packed else self.body
        found: dict[str, Any] = orjson.loads(body)
        return found


class Cache:
    """The newest known state of everything that is watched.

    What it gives out is a copy each time.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, _Held] = {}
        self._children: dict[Key, set[Key]] = defaultdict(set)
        self._references: dict[Key, tuple[Key, ...]] = {}
        self._dependents: dict[Key, set[Key]] = defaultdict(set)
        self._gone: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Raw | None:
        """The object, or None where none is known."""
        held = self._objects.get(key)
        return None if held is None else held.read()

    def before_listing(self) -> dict[Key, int]:
        """Every object's version; what went before needs no remembering, as no later list shows it."""
        self._gone.clear()
        return {key: held.version for key, held in self._objects.items()}

    def rewound(self) -> tuple[Key, ...]:
        """The API server has gone back in time: whatever it shows next is newer; gives what is held."""
        self._gone.clear()
        for key, held in self._objects.items():
            self._objects[key] = replace(held, version=_BEFORE_ALL)
        return tuple(self._objects)

    def is_unlisted(self, key: Key, version: int) -> bool:
        """Whether an object is still the one of before the listing, which did not show it."""
        known = self._objects.get(key)
        return known is not None and known.version == version

    def own_keys(self) -> Iterator[Key]:
        """Every key of our own kinds."""
        return (key for key in list(self._objects) if key.kind in REGISTRATIONS)

    def objects(self, kind: str) -> Iterator[Raw]:
        """Every object of a kind."""
        return (held.read() for key, held in self._objects.items() if key.kind == kind)

    def children(self, owner: Key) -> tuple[Raw, ...]:
        """The objects that an object owns, by key."""
        return tuple(self._objects[key].read() for key in sorted(self._children.get(owner, ())))

    def dependents(self, key: Key) -> frozenset[Key]:
        """The objects that name an object."""
        return frozenset(self._dependents.get(key, ()))

    def references(self, key: Key) -> dict[Key, Raw | None]:
        """The objects that an object names, None for those unknown."""
        return {named: self.get(named) for named in self._references.get(key, ())}

    def put(self, obj: Raw) -> set[Key]:
        """Take an object in; returns the keys to look at, none where it is nothing new."""
        key = key_of(obj)
        known, metadata = self._objects.get(key), obj["metadata"]
        uid, version = metadata.get("uid", ""), version_of(obj)
        if known is None:
            if version <= self._gone.get(key, -1):
                return set()
        elif version < known.version or (version == known.version and uid == known.uid):
            return set()
        child = key.kind in CHILDREN
        owner = owner_of(obj) if child else None
        body = orjson.dumps(slim(obj))
        held = zlib.compress(body, level=1) if child else body
        self._objects[key] = _Held(uid, version, owner, child, held)
        if child:
            return self._own(key, None if known is None else known.owner, owner)
        if key.kind in REGISTRATIONS:
            self._refer(key, REGISTRATIONS[key.kind].references(obj))
        return self._affected(key)

    def drop(self, key: Key, version: int | None = None) -> set[Key]:
        """Forget an object; returns the keys to look at.

        Args:
            key: the object's.
            version: at which it went, where that is known: a newer object of the name stays.
        """
        known = self._objects.get(key)
        if version is not None:
            if known is not None and known.version > version:
                return set()
            self._gone[key] = version
        if known is None:
            return set()
        del self._objects[key]
        if key.kind in CHILDREN:
            return self._own(key, known.owner, None)
        self._refer(key, ())
        return self._affected(key)

    def _own(self, child: Key, before: Key | None, after: Key | None) -> set[Key]:
        """Note who owns a child now; returns the owners, of before and of now."""
        if before is not None and before != after:
            _discard(self._children, before, child)
        if after is not None:
            self._children[after].add(child)
        return {owner for owner in (before, after) if owner is not None}

    def _affected(self, key: Key) -> set[Key]:
        """Who to look at when an object has changed."""
        own = {key} if key.kind in REGISTRATIONS else set()
        return own | self._dependents.get(key, set())

    def _refer(self, key: Key, named: Iterable[Key]) -> None:
        new = tuple(dict.fromkeys(named))
        for old in self._references.pop(key, ()):
            _discard(self._dependents, old, key)
        if new:
            self._references[key] = new
        for each in new:
            self._dependents[each].add(key)


def version_of(obj: Raw) -> int:
    """Its place in the order of all changes of its kind; 0 where it tells none."""
    return int(obj["metadata"].get("resourceVersion") or 0)


def _discard(index: dict[Key, set[Key]], key: Key, member: Key) -> None:
    """Take a member out, and the entry with the last: names come and go for years."""
    index[key].discard(member)
    if not index[key]:
        del index[key]
