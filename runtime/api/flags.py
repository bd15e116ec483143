"""The FeatureFlags as they are now, kept from the live settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import ValidationError

from seedbed.crds.feature_flag import FeatureFlagSpec
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.flags.evaluate import Decision, evaluate

_PREFIX = "flags/"
_log = logging.getLogger(__name__)


class LiveFlags:
    """Every flag by namespace and name."""

    def __init__(self) -> None:
        self._specs: dict[str, dict[str, FeatureFlagSpec]] = {}
        self.loaded = False

    def decide(self, namespace: str, name: str, subject: str | None) -> Decision | None:
        """A flag for a subject, or None where there is no such flag."""
        spec = self._specs.get(namespace, {}).get(name)
        return None if spec is None else evaluate(spec, f"{namespace}/{name}", subject)

    def decide_all(self, namespace: str, subject: str | None) -> Mapping[str, Decision]:
        """Every flag of a namespace for a subject, by name."""
        return {
            name: evaluate(spec, f"{namespace}/{name}", subject)
            for name, spec in sorted(self._specs.get(namespace, {}).items())
        }

    def set(self, key: str, value: bytes | None) -> None:
        """A setting has changed; what cannot be read leaves the flag as it was."""
        namespace, _, name = key.removeprefix(_PREFIX).partition("/")
        flags = self._specs.setdefault(namespace, {})
        if value is None:
            flags.pop(name, None)
            return
        try:
            flags[name] = FeatureFlagSpec.model_validate_json(value)
        except ValidationError as error:
            _log.error("the setting %s is no flag: %s", key, error.errors()[0]["msg"])

    async def follow(self, coordinator: Coordinator) -> None:
        """Keep up with the settings until cancelled."""
        current = await coordinator.settings(_PREFIX)
        self._specs = {}
        for key, value in current.items():
            self.set(key, value)
        self.loaded = True
        # The watch tells everything once more, so nothing is missed in between.
        async with coordinator.watch(_PREFIX) as changes:
            async for change in changes:
                self.set(change.key, change.value)
