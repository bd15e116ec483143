"""The NATS client, with one defect of nats-py mended."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client


class PatientClient(Client):
    """Survives a flush that was given up.

    nats-py (2.16) keeps the future of such a flush; the PONG that comes late for it then raises in the
    read loop, which ends without a word, and the connection stays deaf until its pings run out.
    """

    async def _process_pong(self) -> None:
        pongs: list[asyncio.Future[bool]] = self._pongs
        if pongs and pongs[0].done():
            # PONGs come in the order of the PINGs, so this one belongs to nobody any more.
            pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()
