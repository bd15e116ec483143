"""The one place that knows kopf: its watches feed the reconciler and decide nothing.

Before they start, everything is listed once, so that no object is judged by half of what is there.
Then a handler for each kind and each owned child hands every event on. kopf's own create and update
handlers, timers and finalizers are not used: they write their progress on the user's object.

Of kopf are used: the credentials and their renewal, the lists and the watch streams with their resuming.
What it does with an event before a handler sees it (a task, four loggers, a patch, three dozen keyword
arguments) is left out: it took half of the operator's CPU, and nothing here reads it. Nor does it look for
the kinds: they are known, and one whose CRD is missing or comes back is asked for until it is there. See
`straight`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import kopf
from kopf._cogs.clients import errors
from kopf._cogs.clients.watching import infinite_watch
from kopf._cogs.structs.references import Resource
from kopf._core.reactor import orchestration

from seedbed.controllers.plan import Key, Raw
from seedbed.controllers.pods import key_of
from seedbed.crds.base import GROUP, VERSION
from seedbed.crds.errors import NotFoundError, SeedbedError
from seedbed.crds.kinds import BY_NAME
from seedbed.operator.cache import version_of
from seedbed.operator.kubernetes import PAGE, KubernetesCluster
from seedbed.operator.reconciler import Reconciler
from seedbed.operator.registration import REGISTRATIONS, WATCHED, api_version

log = logging.getLogger(__name__)

REFUSED_SECONDS = 2.0
"""Between two attempts to watch a kind that the API server does not show."""


async def list_everything(
    cluster: KubernetesCluster, reconciler: Reconciler, namespaces: Iterable[str] = ()
) -> dict[Key, int]:
    """Show the reconciler every object that exists now; gives their versions.

    A kind that is not installed, as after an upgrade without its CRD, has no objects.
    """
    labels = {child.kind: child.label for child in WATCHED.values()}
    listed = {}
    for namespace in tuple(namespaces) or ("",):
        for kind in (*WATCHED, *REGISTRATIONS):
            try:
                async for obj in cluster.objects(kind, namespace, selector=labels.get(kind, "")):
                    reconciler.notice(obj)
                    listed[key_of(obj)] = version_of(obj)
            except NotFoundError:
                log.warning("the kind %s is not installed: nothing is done for it", kind)
    return listed


def registry() -> kopf.OperatorRegistry:
    """What kopf has to watch, and how it logs in."""
    handlers = kopf.OperatorRegistry()
    for kind in REGISTRATIONS:
        kopf.on.event(GROUP, VERSION, BY_NAME[kind].plural, registry=handlers, id=kind)(_unused)
    for child in WATCHED.values():
        group, _, version = child.api_version.rpartition("/")
        kopf.on.event(group, version, child.plural, registry=handlers, id=child.kind)(_unused)

    in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ
    login = kopf.login_with_service_account if in_cluster else kopf.login_with_kubeconfig
    kopf.on.login(registry=handlers, id="login")(login)
    return handlers


def _unused(**_: Any) -> None:
    """A handler that makes kopf watch its kind; `straight` takes the events before they come here."""


def settings() -> kopf.OperatorSettings:
    """Switches off what kopf does beside watching; of the children it watches only ours."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.networking.error_backoffs = (1, 2, 3)
    chosen.watching.server_timeout = 300
    chosen.watching.chunk_size = PAGE
    for child in WATCHED.values():
        group, _, version = child.api_version.rpartition("/")
        chosen.watching.label_selectors[group, version, child.plural] = child.label
    return chosen


@contextmanager
def straight(notice: Callable[[Raw, bool], None], namespaces: Iterable[str] = ()) -> Iterator[None]:
    """Have kopf, where it is started meanwhile, give each event to `notice`, in the order of the stream.

    Replaces what starts kopf's watchers for the kinds that it finds, and with them the way from its streams
    to its processing. kopf has no setting for it; its minor version is pinned for this reason.
    """
    spaces = tuple(namespaces) or (None,)

    async def follow(kind: str, resource: Resource, **asked: Any) -> None:
        common = {"apiVersion": api_version(kind), "kind": kind}
        while True:
            try:
                async for event in infinite_watch(resource=resource, **asked):
                    if isinstance(event, dict) and event["type"] != "BOOKMARK":
                        notice({**event["object"], **common}, event["type"] == "DELETED")
            except errors.APIError as error:
                # A CRD that is missing, a right, a server that is ill: no reason to leave all other kinds.
                log.warning("%s cannot be watched now: %s", kind, error)
                await asyncio.sleep(REFUSED_SECONDS)

    async def watchers(*, settings: Any, operator_paused: Any, **_: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            for (kind, resource), namespace in itertools.product(_resources().items(), spaces):
                following = follow(
                    kind,
                    resource,
                    settings=settings,
                    namespace=namespace,
                    operator_paused=operator_paused,
                )
                tasks.create_task(following, name=f"watch {kind} {namespace or ''}")

    names = vars(orchestration)
    kept, names["orchestrator"] = names["orchestrator"], watchers
    try:
        yield
    finally:
        names["orchestrator"] = kept


def _resources() -> dict[str, Resource]:
    """What there is to watch, by kind."""
    found = {}
    for kind in (*WATCHED, *REGISTRATIONS):
        group, _, version = api_version(kind).rpartition("/")
        plural = WATCHED[kind].plural if kind in WATCHED else BY_NAME[kind].plural
        found[kind] = Resource(group, version, plural, namespaced=True)
    return found


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

    def notice(obj: Raw, deleted: bool) -> None:  # noqa: FBT001 -- called in one place
        reconciler.notice(obj, deleted=deleted)

    with straight(notice, chosen):
        with _own_signals(asyncio.get_running_loop()):
            tasks = await kopf.spawn_tasks(
                registry=registry(),
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
        try:
            await compare(cluster, reconciler, namespaces)
        except SeedbedError as error:
            # Also a right that is missing for a moment: what is watched goes on.
            log.warning("listing waits: %s", error)


async def compare(
    cluster: KubernetesCluster, reconciler: Reconciler, namespaces: Iterable[str] = ()
) -> None:
    """List everything, and forget what is not shown.

    A list is never older than what was known before it began, unless the API server's own etcd was restored
    from a backup: then what is known is of a time that has not been.

    Raises:
        SeedbedError: not everything could be listed.
    """
    before = reconciler.cache.before_listing()
    listed = await list_everything(cluster, reconciler, namespaces)
    if any(version < before.get(key, version) for key, version in listed.items()):
        log.warning("the API server has come back with an older state: all is read anew")
        reconciler.rewound()
        before = reconciler.cache.before_listing()
        listed = await list_everything(cluster, reconciler, namespaces)
    reconciler.listed(before, listed)


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
