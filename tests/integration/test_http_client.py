"""The client for providers against a raw server: what it sends, what it makes of good and bad answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from seedbed.operator.certificates import renewed
from seedbed.runtime.llm.http_client import BrokenOffError, HttpClient
from tests.conftest import run_async

OK = b"HTTP/1.1 200 OK\r\n"


class Raw:
    """Answers each request with bytes; counts connections and keeps what was asked."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.asked: list[bytes] = []
        self.gone = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.asked.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                if b"Connection: close" in answer:
                    return
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def serving(
    *answers: bytes | None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Raw, HttpClient]]:
    raw = Raw(*answers)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
    client = HttpClient(f"{scheme}://{host}:{port}/v1", {"Authorization": "Bearer k"})
    async with server:
        yield raw, client
        await client.close()
        server.close()


def ran(body: Callable[[Raw, HttpClient], Awaitable[None]], *answers: bytes | None) -> None:
    async def inner() -> None:
        async with serving(*answers) as (raw, client):
            await body(raw, client)

    run_async(inner(), 10)


async def said(client: HttpClient) -> bytes:
    answer = await client.post("/chat", b"{}")
    try:
        return await answer.read()
    finally:
        answer.release()


def test_answers_of_every_framing_come_whole_over_as_few_connections_as_can_be() -> None:
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    early = b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"
    answers = [
        OK + b"Content-Length: 3\r\n\r\nabc",
        chunked,
        early + OK + b"Content-Length: 2\r\n\r\nok",
        OK + b"Connection: close\r\n\r\nup to the end",
        b"HTTP/1.0 500 No\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n",
    ]

    async def body(raw: Raw, client: HttpClient) -> None:
        found = [await said(client) for _ in range(4)]
        assert found == [b"abc", b"abcde", b"ok", b"up to the end"]
        assert raw.connections == 1
        last = await client.post("/chat", b"{}")
        assert (last.status, last.headers["x-a"]) == (500, "1")
        last.release()
        assert raw.connections == 2
        assert raw.asked[0].startswith(b"POST /v1/chat HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nAuthorization: Bearer k\r\n" in raw.asked[0]
        assert raw.asked[0].endswith(b"Content-Length: 2\r\n\r\n{}")

    ran(body, *answers)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, ConnectionResetError),
        (OK + b"Content-Length: 9\r\nConnection: close\r\n\r\nabc", BrokenOffError),
        (OK + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n9\r\nabc", BrokenOffError),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", BrokenOffError),
    ],
    ids=["nothing", "short", "chunk", "other"],
)
def test_half_an_answer_is_an_error(answer: bytes | None, error: type[OSError]) -> None:
    async def body(raw: Raw, client: HttpClient) -> None:
        with pytest.raises(error):
            await said(client)
        raw.answers.append(OK + b"Content-Length: 2\r\n\r\nok")
        assert await said(client) == b"ok", "the next call has another connection"

    ran(body, answer)


def test_a_connection_that_speaks_unasked_is_not_used_again() -> None:
    ok = OK + b"Content-Length: 2\r\n\r\nok"
    late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"

    async def body(raw: Raw, client: HttpClient) -> None:
        assert await said(client) == b"ok"
        await raw.gone.wait()
        assert await said(client) == b"ok"
        assert raw.connections == 2

    ran(body, ok + late, ok)


def test_who_stops_reading_a_stream_ends_it() -> None:
    async def body(raw: Raw, client: HttpClient) -> None:
        answer = await client.post("/chat", b"{}", whole=False)
        async for part in answer.parts():
            assert part == b"abc"
            break
        answer.release()
        await raw.gone.wait()

    ran(body, OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")


def test_a_stream_that_is_read_slowly_holds_its_provider_up_and_comes_whole() -> None:
    size = 8 * 1024 * 1024

    async def body(raw: Raw, client: HttpClient) -> None:
        answer = await client.post("/chat", b"{}", whole=False)
        found = largest = 0
        async for part in answer.parts():
            found += len(part)
            largest = max(largest, len(part))
            for _ in range(20):
                await asyncio.sleep(0)
        answer.release()
        assert (found, raw.connections) == (size, 1)
        assert largest < size / 2, "it was not all taken in at once"

    ran(body, OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)


def test_it_speaks_tls_and_believes_nobody_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = renewed(None, "localhost", datetime.now(UTC))
    for name, data in made.as_data().items():
        (tmp_path / name).write_bytes(data)
    mine = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    answer = OK + b"Content-Length: 2\r\n\r\nok"

    async def known() -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        async with serving(answer, tls=mine) as (_, client):
            assert await said(client) == b"ok"

    async def unknown() -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        async with serving(answer, tls=mine) as (_, client):
            with pytest.raises(ssl.SSLCertVerificationError):
                await said(client)

    run_async(known(), 10)
    run_async(unknown(), 10)
