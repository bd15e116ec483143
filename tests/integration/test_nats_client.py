"""The connection to NATS outlives what is given up on it."""

from __future__ import annotations

import asyncio

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.bus.nats import NatsBus
from tests.conftest import run_async
from tests.servers import NatsServer


def test_a_round_trip_that_was_given_up_does_not_deafen_the_connection(
    nats_server: NatsServer,
) -> None:
    async def body() -> None:
        bus = await NatsBus.open(nats_server.url)

        async def echo(payload: bytes) -> bytes:
            return payload

        async with bus.serve("echo.given-up", echo):
            given_up = asyncio.create_task(bus._flush())
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait({given_up})
            assert await bus.request("echo.given-up", b"still there", wait=3.0) == b"still there"
        await bus.close()

    run_async(body())


def test_a_paused_server_of_an_address_keeps_no_request_from_its_successor(
    nats_server: NatsServer,
) -> None:
    async def body() -> None:
        paused, successor = [await NatsBus.open(nats_server.url) for _ in range(2)]

        async def hang(_: bytes) -> bytes:
            await asyncio.sleep(5)
            raise UnavailableError("paused")

        async def answer(payload: bytes) -> bytes:
            return payload

        async with paused.serve("owner.3", hang), successor.serve("owner.3", answer):
            for n in range(10):
                asked = str(n).encode()
                assert await successor.request("owner.3", asked, wait=3.0) == asked
        await paused.close()
        await successor.close()

    run_async(body())
