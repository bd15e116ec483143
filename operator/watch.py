"""The one place that knows kopf: its watches feed the reconciler and decide nothing.

Before they start, everything is listed once, so that no object is judged by half of what is there.
Then a handler for each kind and each owned child hands every event on. kopf's own create and update
handlers, timers and finalizers are not used: they write their progress on the user's object.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import kopf

from seedbed.controllers.plan import Raw
from seedbed.crds.base import GROUP, VERSION
from seedbed.crds.kinds import BY_NAME
from seedbed.operator.kubernetes import KubernetesCluster
from seedbed.operator.reconciler import Reconciler
from seedbed.operator.registration import CHILDREN, REGISTRATIONS, api_version

MANAGED = "app.kubernetes.io/managed-by"
SELECTOR = f"{MANAGED}=seedbed"


async def list_everything(cluster: KubernetesCluster, reconciler: Reconciler) -> None:
    """Show the reconciler every object that exists now."""
    for kind in CHILDREN:
        async for obj in cluster.objects(kind, selector=SELECTOR):
            reconciler.notice(obj)
    for kind in REGISTRATIONS:
        async for obj in cluster.objects(kind):
            reconciler.notice(obj)


def registry(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """A registry of one event handler for each kind."""
    handlers = kopf.OperatorRegistry()

    def handle(kind: str, group: str, version: str, plural: str, **more: Any) -> None:
        @kopf.on.event(group, version, plural, registry=handlers, id=kind, **more)
        async def notice(event: Raw, **_: Any) -> None:
            obj = {"apiVersion": api_version(kind), **event["object"], "kind": kind}
            reconciler.notice(obj, deleted=event["type"] == "DELETED")

    for kind in REGISTRATIONS:
        handle(kind, GROUP, VERSION, BY_NAME[kind].plural)
    for child in CHILDREN.values():
        group, _, version = child.api_version.rpartition("/")
        handle(child.kind, group, version, child.plural, labels={MANAGED: "seedbed"})

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.watching.server_timeout = 300
        settings.persistence.finalizer = f"{GROUP}/unused"

    return handlers


async def watch(reconciler: Reconciler, stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Watch the whole cluster until `stop` is set."""
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    await kopf.operator(
        registry=registry(reconciler),
        standalone=True,
        clusterwide=True,
        stop_flag=stop,
        ready_flag=ready,
    )
