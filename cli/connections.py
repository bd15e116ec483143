"""Where roles serve, and what they connect to: NATS, etcd and the database, closed with the role.

A client's package is imported by the role that needs it.
"""
# ruff: noqa: PLC0415 -- see above

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from seedbed.cli.process import Process, always, patiently

if TYPE_CHECKING:
    from seedbed.runtime.bus.nats import NatsBus
    from seedbed.runtime.coordination.etcd import EtcdCoordinator
    from seedbed.runtime.store.sql import SqlStore

EVERYWHERE = "0.0.0.0"  # noqa: S104  # pods are reached from outside; NetworkPolicies say by whom


async def bus_of(process: Process, stack: AsyncExitStack, name: str) -> NatsBus:
    """NATS, with its settings; the process waits for it."""
    from seedbed.runtime.bus.nats import NatsBus

    url, events = process.settings.nats_url, process.settings.events.settings(name == "engine")
    process.waiting["NATS"] = always
    bus = await patiently("NATS", lambda: NatsBus.open(url, name=name, wait=10.0, events=events))
    stack.push_async_callback(bus.close)
    process.waiting["NATS"] = lambda: not bus.connected
    return bus


async def coordinator_of(process: Process, stack: AsyncExitStack) -> EtcdCoordinator:
    """Etcd, once it answers."""
    from seedbed.runtime.coordination.etcd import EtcdCoordinator

    coordinator = EtcdCoordinator.open(process.settings.etcd_endpoint)
    stack.push_async_callback(coordinator.close)
    await patiently("etcd", lambda: coordinator.holder("operator"))
    return coordinator


async def store_of(process: Process, stack: AsyncExitStack) -> SqlStore:
    """The database, with its tables."""
    from seedbed.runtime.store.sql import SqlStore

    store = SqlStore.open(process.settings.store_url())
    stack.push_async_callback(store.close)
    await patiently("the database", store.migrate)
    return store
