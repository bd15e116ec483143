"""Where steps come from that do not stand in the object: read once, before the run begins.

A tenant names the address, so the engine goes only where the installation allows: to its own store,
to the hosts of a list, and into one folder. What it reads must have the SHA-256 that the Workflow
tells, and every read has limits of time and size.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
import ssl
import weakref
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp
from yarl import URL

from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import InvalidError, PlanUnavailableError
from seedbed.crds.messages import RunRequest
from seedbed.crds.steps_document import DOCUMENT_LIMIT, read_steps
from seedbed.crds.steps_source import PUSHED, Artifact, StepsFrom, host_of, shown, source_name
from seedbed.runtime.store.plans import Plans
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.plan import THREAD_FROM, Start, started, uncollected

FETCH_SECONDS = 60.0
TOGETHER = 4
"""Plans that are read at the same time."""
AGAIN_AFTER = 5.0

_OK = 200
_FIELD = "spec.stepsFrom"
_CHUNK = 64 * 1024
_AS_SENT = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Where an engine may read plans from, beside its own store.

    Attributes:
        hosts: names that `https://` URLs may have; with `:PORT` where it is not 443. None: any,
            for one process on the machine of the user who wrote the Workflow.
        folder: folder that `file:` URLs stand below.
        trust: whose certificates hosts may have; the system's authorities where None.
    """

    hosts: frozenset[str] | None = frozenset()
    folder: Path | None = None
    trust: ssl.SSLContext | None = None


class PlanSources:
    """Makes runs ready to begin.

    Args:
        store: tells which runs there are already.
        plans: plans that users pushed; None where nobody can push any.
    """

    def __init__(self, store: Store, plans: Plans | None, allowed: Allowed) -> None:
        self._store = store
        self._plans = plans
        self._allowed = allowed
        self._free = asyncio.Semaphore(TOGETHER)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def ready(self, submit: Submit) -> Start | Submit:
        """What the run's partition needs to begin it; the request itself for a run that it has.

        Raises:
            InvalidError: the plan cannot run.
            PlanUnavailableError: its document cannot be had for now.
        """
        request = submit.request
        source = request.spec.get("stepsFrom")
        if source is None and len(request.spec.get("steps") or ()) < THREAD_FROM:
            return submit
        lock = self._locks.setdefault(request.run, asyncio.Lock())
        # Who asks again while a plan is read waits for it, instead of reading it too.
        async with lock:
            if await self._store.run(request.run) is not None:
                return submit
            async with self._free:
                if source is None:
                    return await asyncio.to_thread(started, request)
                named = StepsFrom.model_validate(source)
                with metrics.plan_read(_kind(named)):
                    data = await self._document(submit, named)
                    return await asyncio.to_thread(_parsed, request, data, source_name(named))

    async def _document(self, submit: Submit, source: StepsFrom) -> bytes:
        if source.artifact is not None:
            return await self._artifact(submit.request.namespace, source.artifact)
        if not submit.packed:
            return submit.document.encode()
        try:
            return base64.b64decode(submit.document, validate=True)
        except binascii.Error as error:
            raise InvalidError(f"{_FIELD}.configMap", "the entry is no Base64") from error

    async def _artifact(self, namespace: str, artifact: Artifact) -> bytes:
        digest = artifact.digest
        data = await self._plans.data(namespace, digest) if self._plans else None
        if data is None and artifact.url.startswith(PUSHED):
            told = f"no plan {digest} was pushed to namespace {namespace}: `seedbed plan push FILE`"
            raise PlanUnavailableError(told, AGAIN_AFTER)
        if data is None:
            https = artifact.url.startswith("https://")
            data = await (self._fetched(artifact.url) if https else self._file(artifact.url))
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise InvalidError(
                f"{_FIELD}.artifact.sha256", f"{shown(artifact.url)} has SHA-256 {found}"
            )
        return data

    async def _fetched(self, url: str) -> bytes:
        field, told = f"{_FIELD}.artifact.url", shown(url)
        try:
            host = urlsplit(url).netloc
            # A signature holds for the URL as it was signed, so none of it is written otherwise.
            address = URL(url, encoded=_AS_SENT.fullmatch(url) is not None)
            known = address.host and address.port
        except ValueError:
            known = None
        if not known:
            raise InvalidError(field, f"{told} is no URL")
        if self._allowed.hosts is not None and host not in self._allowed.hosts:
            expected = f"this installation lets engines read no plans from host `{host_of(host)}`"
            raise InvalidError(field, expected)
        limit = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            # A redirect could lead anywhere, so none is followed.
            async with (
                aiohttp.ClientSession(timeout=limit, auto_decompress=False) as session,
                session.get(
                    address, allow_redirects=False, ssl=self._allowed.trust or True
                ) as answer,
            ):
                if answer.status != _OK:
                    raise PlanUnavailableError(f"{told} answers {answer.status}", AGAIN_AFTER)
                return await _limited(answer.content, told)
        except aiohttp.InvalidURL:
            raise InvalidError(field, f"{told} is no URL") from None  # its text is the URL
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise PlanUnavailableError(f"{told} does not answer: {why}", AGAIN_AFTER) from error

    async def _file(self, url: str) -> bytes:
        folder = self._allowed.folder
        if folder is None:
            expected = "this installation gives engines no folder with plans"
            raise InvalidError(f"{_FIELD}.artifact.url", expected)
        path = (folder / unquote(url.removeprefix("file:")).lstrip("/")).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise InvalidError(f"{_FIELD}.artifact.url", "leads out of the folder with plans")
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await asyncio.to_thread(_read, path, url)
        except (OSError, TimeoutError) as error:
            told = f"{url} cannot be read: {getattr(error, 'strerror', None) or error}"
            raise PlanUnavailableError(told, AGAIN_AFTER) from error


def _kind(source: StepsFrom) -> str:
    if source.artifact is None:
        return "configmap"
    return source.artifact.url.partition(":")[0]


def _parsed(request: RunRequest, data: bytes, name: str) -> Start:
    try:
        with uncollected():
            return started(request, read_steps(data))
    except InvalidError as error:
        raise InvalidError(_FIELD, f"{name}: {error}") from error


async def _limited(content: aiohttp.StreamReader, url: str) -> bytes:
    data = bytearray()
    async for chunk in content.iter_chunked(_CHUNK):
        data += chunk
        _check_size(len(data), url)
    return bytes(data)


def _read(path: Path, url: str) -> bytes:
    _check_size(path.stat().st_size, url)
    return path.read_bytes()


def _check_size(size: int, url: str) -> None:
    if size > DOCUMENT_LIMIT:
        expected = f"{url} has more than {DOCUMENT_LIMIT} bytes"
        raise InvalidError(f"{_FIELD}.artifact.url", expected)
