"""The one place that knows kopf: its watches feed the reconciler and decide nothing.

Before they start, everything is listed once, so that no object is judged by half of what is there.
Then a handler for each kind and each owned child hands every event on. kopf's own create and update
handlers, timers and finalizers are not used: they write their progress on the user's object.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import kopf

from seedbed.controllers.plan import Key, Raw
from seedbed.controllers.pods import key_of
from seedbed.crds.base import GROUP, VERSION
from seedbed.crds.errors import RetryableError
from seedbed.crds.kinds import BY_NAME
from seedbed.operator.kubernetes import PAGE, KubernetesCluster
from seedbed.operator.reconciler import Reconciler
from seedbed.operator.registration import REGISTRATIONS, WATCHED, api_version

log = logging.getLogger(__name__)

# kopf keeps a task and the last event of every object for this long after the event.
_FORGET_SECONDS = 0.05


async def list_everything(
    cluster: KubernetesCluster, reconciler: Reconciler, namespaces: Iterable[str] = ()
) -> set[Key]:
    """Show the reconciler every object that exists now; gives their keys."""
    listed = set()
    for namespace in tuple(namespaces) or ("",):
        for child in WATCHED.values():
            async for obj in cluster.objects(child.kind, namespace, selector=child.label):
                reconciler.notice(obj)
                listed.add(key_of(obj))
        for kind in REGISTRATIONS:
            async for obj in cluster.objects(kind, namespace):
                reconciler.notice(obj)
                listed.add(key_of(obj))
    return listed


def registry(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """A registry of one event handler for each kind."""
    handlers = kopf.OperatorRegistry()

    def handle(kind: str, group: str, version: str, plural: str) -> None:
        @kopf.on.event(group, version, plural, registry=handlers, id=kind)
        async def notice(event: Raw, **_: Any) -> None:
            obj = {"apiVersion": api_version(kind), **event["object"], "kind": kind}
            reconciler.notice(obj, deleted=event["type"] == "DELETED")

    for kind in REGISTRATIONS:
        handle(kind, GROUP, VERSION, BY_NAME[kind].plural)
    for child in WATCHED.values():
        group, _, version = child.api_version.rpartition("/")
        handle(child.kind, group, version, child.plural)

    in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ
    login = kopf.login_with_service_account if in_cluster else kopf.login_with_kubeconfig
    kopf.on.login(registry=handlers, id="login")(login)
    return handlers


def settings() -> kopf.OperatorSettings:
    """Switches off what kopf does beside watching; of the children it watches only ours."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.watching.server_timeout = 300
    chosen.watching.chunk_size = PAGE
    chosen.queueing.idle_timeout = _FORGET_SECONDS
    chosen.persistence.finalizer = f"{GROUP}/unused"
    chosen.persistence.diffbase_storage = _NoDiffs()
    chosen.persistence.progress_storage = kopf.StatusProgressStorage()
    for child in WATCHED.values():
        group, _, version = child.api_version.rpartition("/")
        chosen.watching.label_selectors[group, version, child.plural] = child.label
    return chosen


class _NoDiffs(kopf.DiffBaseStorage):
    """Computes no difference between events: nobody here asks for one, and it costs the most."""

    def build(self, **_: Any) -> Any:
        """No essence."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """No essence before."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is written on the user's object."""


async def watch(
    reconciler: Reconciler,
    stop: asyncio.Event,
    ready: asyncio.Event,
    namespaces: Iterable[str] = (),
) -> None:
    """Watch until `stop` is set: the whole cluster, or the namespaces where some are given."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    chosen = tuple(namespaces)
    others = asyncio.all_tasks()
    with _own_signals(asyncio.get_running_loop()):
        tasks = await kopf.spawn_tasks(
            registry=registry(reconciler),
            settings=settings(),
            standalone=True,
            clusterwide=not chosen,
            namespaces=chosen,
            stop_flag=stop,
            ready_flag=ready,
        )
    await kopf.run_tasks(tasks, ignored=others)


async def list_again(
    cluster: KubernetesCluster,
    reconciler: Reconciler,
    every: float,
    namespaces: Iterable[str] = (),
) -> None:
    """List everything now and then: a watch that broke for long has not told what was deleted."""
    while True:
        await asyncio.sleep(every)
        known = reconciler.cache.keys()
        try:
            listed = await list_everything(cluster, reconciler, namespaces)
        except RetryableError as error:
            log.info("listing waits: %s", error)
            continue
        for key in known - listed:
            reconciler.forget(key)


@contextmanager
def _own_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let kopf take no signal: the process decides what ends it, and in which order."""

    def leave(*_: Any) -> None:
        return

    kept = loop.add_signal_handler
    loop.add_signal_handler = leave  # type: ignore[method-assign,assignment]  # kopf has no setting for it
    try:
        yield
    finally:
        loop.add_signal_handler = kept  # type: ignore[method-assign]  # as above
