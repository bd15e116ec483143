"""A lean HTTP/1.1 client for one origin: POSTs JSON over kept connections, reads answers and streams.

A general client spends several times what the rest of a call costs on what providers never need:
cookies, redirects, proxies, compression. Here is what they do need: TLS, kept connections, answers
with a length, in chunks or up to the connection's end, and an end of the work when nobody reads.

    _Connection   one connection: the parser's callbacks, and who waits for what
    HttpClient    the connections that are free, and new ones
    Answer        one answer; whoever got it releases it
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 15.0
"""A kept connection that has rested longer is not used again: the other side may be about to end it."""
LARGEST_ANSWER = 64 * 1024 * 1024
_FULL, _ROOM = 1024 * 1024, 256 * 1024
"""Bytes of a stream that wait to be read before the provider is held up, and before it goes on."""
_FIRST_FINAL = 200


class BrokenOffError(OSError):
    """The connection ended, or what came is no HTTP, in the middle of an answer."""


class _Connection(asyncio.Protocol):
    """One connection, with at most one answer on its way."""

    def __init__(self) -> None:
        self.rested_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = False
        self.ended = False
        self.reusable = False
        self.error: OSError | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._rests = True
        self._wants_end = False
        self._waiter: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._rests:
            # Nobody has asked: such as a word about the time being over, before the end.
            self._break_off("an answer without a request")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break_off(f"no HTTP: {error}")
        if self._size > _FULL and not self._wants_end and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._size > LARGEST_ANSWER:
            self._break_off("the answer is too large")
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        if self.begun and not self.ended and not framed and error is None:
            self.ended = True
        elif self.error is None:
            form = BrokenOffError if self.begun else ConnectionResetError
            self.error = form(str(error or "the connection was closed"))
        self._wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._rests:
            raise BrokenOffError("two answers to one request")

    def on_status(self, _: bytes) -> None:
        self.status = self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.begun = self.status >= _FIRST_FINAL

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        if not self.begun:
            # A word before the answer, such as 103.
            self.headers.clear()
            return
        self.ended = True
        self._rests = True
        self.reusable = self.error is None and self._parser.should_keep_alive()

    # What an answer calls.

    @property
    def alive(self) -> bool:
        return self.error is None and not self._transport.is_closing()

    def ask(self, request: bytes) -> None:
        """Send a request; what was there of the last answer is forgotten."""
        self.status, self.headers = 0, {}
        self.begun = self.ended = self.reusable = False
        self._parts, self._size = [], 0
        self._rests = False
        self._transport.write(request)

    async def until_begun(self) -> None:
        while not self.begun:
            await self._change(end=False)

    async def until_ended(self) -> None:
        while not self.ended:
            await self._change(end=True)

    async def whole(self) -> bytes:
        """All of the body."""
        await self.until_ended()
        return self._taken()

    async def part(self) -> bytes:
        """What has come of the body since the last time, empty at its end."""
        while not self._parts and not self.ended:
            await self._change(end=False)
        return self._taken()

    def abort(self) -> None:
        self.reusable = False
        self._transport.abort()

    def _taken(self) -> bytes:
        parts, self._parts = self._parts, []
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _change(self, *, end: bool) -> None:
        """Wait for more, or with `end` for the answer's end."""
        if self.error is not None:
            raise self.error
        self._wants_end = end
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self.ended or self.error is not None or not self._wants_end:
            waiter.set_result(None)

    def _break_off(self, reason: str) -> None:
        if self.error is None:
            self.error = BrokenOffError(reason)
        self.abort()


class Answer:
    """An answer whose status and headers are there; to be released by whoever got it."""

    def __init__(self, client: HttpClient, connection: _Connection) -> None:
        self._client = client
        self._connection = connection

    @property
    def status(self) -> int:
        """HTTP's."""
        return self._connection.status

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name; of several with one name the last."""
        return self._connection.headers

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            BrokenOffError: where it ended early.
        """
        return await self._connection.whole()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            BrokenOffError: where it ended early.
        """
        while part := await self._connection.part():
            yield part

    def release(self) -> None:
        """Keep the connection where the answer was read to its end, else end it: that ends the work."""
        self._client.take_back(self._connection)


class HttpClient:
    """Asks one origin.

    Args:
        url: `http://host:port/path` or `https://...`; paths of requests are put behind it.
        headers: of each request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/")
        given = {"Host": parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity", **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self._heads: dict[str, bytes] = {}
        self._free: list[_Connection] = []
        self._closed = False

    async def post(self, path: str, body: bytes, *, whole: bool = True) -> Answer:
        """Ask, and wait for the whole answer, or else for its beginning.

        Raises:
            TimeoutError: where nobody takes the connection in time.
            BrokenOffError: where the answer ended early.
            OSError: where the origin cannot be reached, or ends the connection without a word.
        """
        connection = await self._connection()
        answer = Answer(self, connection)
        try:
            connection.ask(b"%b%d\r\n\r\n%b" % (self._head(path), len(body), body))
            await (connection.until_ended() if whole else connection.until_begun())
        except BaseException:
            answer.release()
            raise
        return answer

    def take_back(self, connection: _Connection) -> None:
        """A connection is not needed any more."""
        if self._closed or not connection.reusable or not connection.alive:
            connection.abort()
            return
        connection.rested_since = asyncio.get_running_loop().time()
        self._free.append(connection)

    async def close(self) -> None:
        """End every connection that nobody uses, and the others when they are given back."""
        self._closed = True
        while self._free:
            self._free.pop().abort()

    def _head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            line = f"POST {self._base}{path} HTTP/1.1\r\n{self._headers}Content-Length: "
            head = self._heads[path] = line.encode("latin-1")
        return head

    async def _connection(self) -> _Connection:
        now = asyncio.get_running_loop().time()
        while self._free:
            # The one used last: those that are not needed grow old.
            found = self._free.pop()
            if found.alive and now - found.rested_since < IDLE_SECONDS:
                return found
            found.abort()
        async with asyncio.timeout(CONNECT_SECONDS):
            _, made = await asyncio.get_running_loop().create_connection(
                _Connection, self._host, self._port, ssl=self._tls
            )
        return made
