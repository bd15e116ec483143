"""The live settings that objects publish, as the coordinator holds them.

The watch of the coordinator tells of own writes later than the next look at the object may come. So a
write counts from its beginning, and what the watch tells of it is no news; anything else that the watch
tells is a reason to look at the object, whose spec decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from seedbed.controllers.plan import Key

OWNERS = {
    "agents": "Agent",
    "flags": "FeatureFlag",
    "pools": "Pool",
    "seedlayers": "SeedLayer",
    "templates": "Workflow",
    "workflows": "Workflow",
}
"""The kinds that settings belong to, by the first part of their names."""
_UNKNOWN = b""
"""Of a setting whose write has failed: no published value, so the next look writes again."""


class LiveSettings:
    """Keeps the newest known value of each setting.

    Args:
        news: called with the object whose setting is not as this process left it.
    """

    def __init__(self, news: Callable[[Key], None]) -> None:
        self._news = news
        self._values: dict[str, bytes] = {}

    def load(self, values: Mapping[str, bytes]) -> None:
        """Take in what is there at the beginning."""
        self._values.update(values)

    def of(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those of the settings that exist."""
        return {name: self._values[name] for name in names if name in self._values}

    def owned(self) -> list[tuple[str, Key]]:
        """Every setting, with the object that it belongs to."""
        return [(name, owner_of_setting(name)) for name in self._values]

    def told(self, name: str, value: bytes | None) -> None:
        """The watch tells of a setting; None where it has gone."""
        if self._values.get(name) != value:
            self._put(name, value)
            self._news(owner_of_setting(name))

    @contextmanager
    def writing(self, name: str, value: bytes | None) -> Iterator[None]:
        """The time of one write."""
        self._put(name, value)
        try:
            yield
        except BaseException:
            self._values[name] = _UNKNOWN
            raise

    def _put(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = value


def owner_of_setting(name: str) -> Key:
    """The object that a setting belongs to."""
    kind, namespace, own = name.split("/", 2)
    return Key(OWNERS[kind], namespace, own)
