"""Who is there: services by name, capabilities and metadata. The dead vanish with their lease.

An instance is the live setting `services/NAME/INSTANCE`, so a watch of `services/worker/` sees every
worker come, change and go. Its value is JSON: `{"capabilities": [...], "metadata": {...}}`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from seedbed.crds.errors import ConflictError, InvalidError
from seedbed.runtime.coordination.port import Coordinator, Lease, Ownership

PREFIX = "services/"


class DuplicateInstanceError(ConflictError):
    """The instance id is taken by a live instance.

    Attributes:
        service: name of the service.
        instance: the id.
    """

    code = "duplicate_instance"

    def __init__(self, service: str, instance: str) -> None:
        super().__init__(f"{service} {instance!r} is registered already")
        self.service = service
        self.instance = instance


@dataclass(frozen=True, slots=True)
class Service:
    """A live instance of a service.

    Attributes:
        metadata: what it says of itself; a worker says `namespace`, `pool`, `status`, `started_at`
            (Unix time in ms) and, while it serves an optimisation, `optimization_id`.
    """

    name: str
    instance: str
    capabilities: frozenset[str]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Registration:
    """An own entry in the registry; needed to change and to remove it."""

    service: Service
    ownership: Ownership


async def register(  # an entry has these six facts
    coordinator: Coordinator,
    service: str,
    instance: str,
    capabilities: Iterable[str],
    metadata: Mapping[str, Any],
    lease: Lease,
) -> Registration:
    """Enter an instance; it stands there until it is removed or the lease ends.

    Raises:
        DuplicateInstanceError: where a live instance has this id.
        InvalidError: where the name or the id is empty or holds a slash.
    """
    key = service_key(service, instance)
    nonce = uuid.uuid4().hex
    ownership = await coordinator.acquire(key, nonce, lease)
    # The same lease may own the name through an earlier registration: the nonce tells.
    if ownership is None or await coordinator.holder(key) != (nonce, ownership.token):
        raise DuplicateInstanceError(service, instance)
    entry = Service(service, instance, frozenset(capabilities), dict(metadata))
    registration = Registration(entry, ownership)
    await _write(coordinator, registration)
    return registration


async def update(
    coordinator: Coordinator, registration: Registration, metadata: Mapping[str, Any]
) -> Registration:
    """Replace the metadata of an own entry.

    Raises:
        FencedError: where the entry is no longer one's own.
    """
    old = registration.service
    entry = Service(old.name, old.instance, old.capabilities, dict(metadata))
    changed = Registration(entry, registration.ownership)
    await _write(coordinator, changed)
    return changed


async def deregister(coordinator: Coordinator, registration: Registration) -> None:
    """Remove an own entry and free its id.

    Raises:
        FencedError: where the entry is no longer one's own.
    """
    service, ownership = registration.service, registration.ownership
    await coordinator.delete(service_key(service.name, service.instance), under=ownership)
    await coordinator.resign(ownership)


async def discover(
    coordinator: Coordinator,
    name: str | None = None,
    capabilities: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> list[Service]:
    """The live instances that have the name, every capability and every metadata value asked for."""
    prefix = PREFIX if name is None else f"{PREFIX}{name}/"
    wanted, facts = frozenset(capabilities), dict(metadata or {})
    found = await coordinator.settings(prefix)
    services = (parse_service(key, value) for key, value in sorted(found.items()))
    return [
        service
        for service in services
        if wanted <= service.capabilities
        and all(fact in service.metadata.items() for fact in facts.items())
    ]


def service_key(service: str, instance: str) -> str:
    """The live setting that holds an instance."""
    for field, value in (("service", service), ("instance", instance)):
        if not value or "/" in value:
            raise InvalidError(field, "expected a name without a slash")
    return f"{PREFIX}{service}/{instance}"


def parse_service(key: str, value: bytes) -> Service:
    """The instance that a live setting under `services/` holds."""
    _, name, instance = key.split("/")
    entry = orjson.loads(value)
    return Service(name, instance, frozenset(entry["capabilities"]), entry["metadata"])


async def _write(coordinator: Coordinator, registration: Registration) -> None:
    service, ownership = registration.service, registration.ownership
    value = {"capabilities": sorted(service.capabilities), "metadata": dict(service.metadata)}
    await coordinator.put(
        service_key(service.name, service.instance),
        orjson.dumps(value),
        lease=ownership.lease,
        under=ownership,
    )
