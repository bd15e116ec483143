"""A connection to etcd: unary calls with a time limit, and a watch that resumes.

gRPC makes a broken connection anew by itself; a call meanwhile fails at once. A connection that etcd took
while it was starting may know no service for as long as it lasts (it answers 404): that one is left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]  # it ships no types
import grpc.aio  # type: ignore[import-untyped]  # it ships no types
from aetcd import rpc

from seedbed.crds.errors import InvalidError, TerminalError, UnavailableError

CALL_SECONDS = 5.0
RETRY_SECONDS = 0.2
_OPTIONS = (
    # Come back soon after a restart, and notice a server that is silent.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)
_REFUSED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


class EtcdChannel:
    """One gRPC channel with etcd's services, made when first used (it belongs to an event loop).

    Raises:
        InvalidError: where the endpoint is no http or https URL with a port.
    """

    def __init__(self, endpoint: str, ca: str | None, cert: str | None, key: str | None) -> None:
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https") or not url.hostname or not url.port:
            raise InvalidError("etcd endpoint", "expected http://HOST:PORT or https://HOST:PORT")
        self._target = url.netloc
        self._secure = url.scheme == "https"
        self._files = (ca, key, cert)
        self._channel: Any = None
        self._stub: Any = None

    def _keys(self) -> Any:
        """The service of keys and values; to make its stub takes longer than to use it."""
        if self._stub is None:
            self._stub = rpc.KVStub(self._open())
        return self._stub

    def _open(self) -> Any:
        if self._channel is None:
            if self._secure:
                read = [None if file is None else Path(file).read_bytes() for file in self._files]
                credentials = grpc.ssl_channel_credentials(*read)
                self._channel = grpc.aio.secure_channel(self._target, credentials, _OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(self._target, _OPTIONS)
        return self._channel

    async def transaction(
        self, conditions: Sequence[Any], then: Sequence[Any], otherwise: Sequence[Any]
    ) -> Any:
        """A TxnResponse."""
        request = rpc.TxnRequest(compare=conditions, success=then, failure=otherwise)
        return await self.answer(self._keys().Txn(request, timeout=CALL_SECONDS))

    async def range(self, request: Any) -> Any:
        """A RangeResponse."""
        return await self.answer(self._keys().Range(request, timeout=CALL_SECONDS))

    async def grant(self, ttl: int) -> Any:
        """A LeaseGrantResponse."""
        request = rpc.LeaseGrantRequest(TTL=ttl)
        granted = rpc.LeaseStub(self._open()).LeaseGrant(request, timeout=CALL_SECONDS)
        return await self.answer(granted)

    async def revoke(self, lease: int, limit: float) -> None:
        """End a lease."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        await self.answer(rpc.LeaseStub(self._open()).LeaseRevoke(request, timeout=limit))

    async def keep_alive(self, lease: int, limit: float) -> float:
        """Seconds that the lease has from now on; 0 where it is over."""
        call = rpc.LeaseStub(self._open()).LeaseKeepAlive(
            iter([rpc.LeaseKeepAliveRequest(ID=lease)]), timeout=min(limit, CALL_SECONDS)
        )
        try:
            answer = await self.answer(call.read())
            if answer is grpc.aio.EOF:
                raise UnavailableError("etcd ended the keep-alive")
            return float(answer.TTL)
        finally:
            call.cancel()

    def watch_stream(self) -> Any:
        """A stream of WatchRequest and WatchResponse."""
        return rpc.WatchStub(self._open()).Watch()

    async def close(self) -> None:
        """Disconnect; calls under way fail."""
        await self._leave(None)

    async def answer(self, call: Awaitable[Any]) -> Any:
        """What a call gives; where the server knows no such call, the next one connects anew."""
        channel = self._channel
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED and channel is self._channel:
                await self._leave(RETRY_SECONDS)
            raise

    async def _leave(self, grace: float | None) -> None:
        """Close the channel; calls under way have so many seconds to end."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close(grace)


class Watch:
    """Tells what is under a key range, then each change, none missed: pairs of key and value or None.

    It resumes behind the last change it told. Where etcd has forgotten that far back, it lists anew
    and tells what differs. A wait for the next change may be cancelled and repeated.
    """

    def __init__(self, channel: EtcdChannel, key: bytes, range_end: bytes) -> None:
        self._etcd = channel
        self._key = key
        self._range_end = range_end
        self._known: dict[bytes, int] = {}
        self._revision: int | None = None
        self._pending: deque[tuple[bytes, bytes | None]] = deque()
        self._stream: Any = None

    def __aiter__(self) -> AsyncIterator[tuple[bytes, bytes | None]]:
        return self

    async def __anext__(self) -> tuple[bytes, bytes | None]:
        while not self._pending:
            try:
                with translated():
                    await self._advance()
            except UnavailableError:
                self.cancel()
                await asyncio.sleep(RETRY_SECONDS)
            except asyncio.CancelledError:
                # gRPC ends the stream with the read; the next wait opens another where this one was.
                self.cancel()
                raise
        return self._pending.popleft()

    def resume(self, known: Mapping[bytes, int], revision: int) -> None:
        """Begin with what the caller read at a revision: mod revision by key."""
        self._known = dict(known)
        self._revision = revision

    async def list(self) -> None:
        """Read everything and note what differs from what was told."""
        request = rpc.RangeRequest(key=self._key, range_end=self._range_end)
        answer = await self._etcd.range(request)
        found = {kv.key: kv for kv in answer.kvs}
        self._pending.extend((key, None) for key in self._known if key not in found)
        self._pending.extend(
            (key, kv.value) for key, kv in found.items() if self._known.get(key) != kv.mod_revision
        )
        self._known = {key: kv.mod_revision for key, kv in found.items()}
        self._revision = answer.header.revision

    def cancel(self) -> None:
        """End the stream; the next wait opens another."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    async def _advance(self) -> None:
        if self._revision is None:
            await self.list()
            return
        if self._stream is None:
            await self._subscribe(self._revision)
        answer = await self._etcd.answer(self._stream.read())
        if answer is grpc.aio.EOF:
            raise UnavailableError("etcd ended the watch")
        # Behind us: etcd came back with less than it had, and would wait for the old revision.
        if answer.canceled or answer.header.revision < self._revision:
            self._revision = None
            self.cancel()
        elif not answer.created:
            self._note(answer)

    async def _subscribe(self, revision: int) -> None:
        create = rpc.WatchCreateRequest(
            key=self._key,
            range_end=self._range_end,
            start_revision=revision + 1,
            progress_notify=True,
        )
        self._stream = self._etcd.watch_stream()
        await self._stream.write(rpc.WatchRequest(create_request=create))

    def _note(self, answer: Any) -> None:
        if not answer.events:
            # Progress: everything up to this revision was told.
            self._revision = answer.header.revision
        for event in answer.events:
            key, revision = event.kv.key, event.kv.mod_revision
            if event.type == rpc.Event.DELETE:
                self._known.pop(key, None)
                self._pending.append((key, None))
            else:
                self._known[key] = revision
                self._pending.append((key, event.kv.value))
            self._revision = revision


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind every key with the prefix. The prefix ends in ASCII."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@contextmanager
def translated() -> Iterator[None]:
    """Turn gRPC's errors into UnavailableError, and into TerminalError what trying again cannot help."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        text = f"etcd: {error.details()}"
        if error.code() in _REFUSED:
            raise TerminalError(text) from error
        raise UnavailableError(text) from error
    except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
        # A stream that ended, or a channel that was closed, under our hands.
        raise UnavailableError(f"etcd: {error}") from error
