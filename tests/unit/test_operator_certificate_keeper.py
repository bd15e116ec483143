"""The keeper of the webhook's certificate, where the cluster is not as the chart has made it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.errors import InvalidError, NotFoundError, SeedbedError
from seedbed.operator import certificate_keeper
from seedbed.operator.certificate_keeper import CertificateKeeper, Place
from seedbed.operator.certificates import Certificates
from tests.conftest import run_async

HOOK = {"name": "validate.seedbed.dev", "clientConfig": {"service": {"name": "seedbed-webhook"}}}


class Server:
    """The API server's Secret and configuration; either may be missing."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = {"metadata": {"resourceVersion": "1"}, "data": {}}
        self.hooks: list[dict[str, Any]] | None = [HOOK]
        self.asked = 0
        self.failures: list[SeedbedError] = []
        self.may_create = False

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        self.asked += 1
        if self.failures:
            raise self.failures.pop()
        if "/secrets" in path:
            if method == "POST":
                if not self.may_create:
                    raise InvalidError("object", "secrets is forbidden")
                assert path == "/api/v1/namespaces/system/secrets"
                assert body["metadata"]["name"] == "tls"
                self.secret = {"metadata": {"resourceVersion": "1"}, "data": body["data"]}
                return self.secret
            if self.secret is None:
                raise NotFoundError("secrets", "tls")
            if method == "PATCH":
                self.secret = {**self.secret, "data": body["data"]}
            return self.secret
        if self.hooks is None:
            raise NotFoundError("validatingwebhookconfigurations", "seedbed")
        if method == "PATCH":
            self.hooks = [
                {**old, **new} for old, new in zip(self.hooks, body["webhooks"], strict=True)
            ]
        return {"webhooks": self.hooks}

    def held(self) -> Certificates | None:
        data = (self.secret or {}).get("data") or {}
        return Certificates.from_data({k: base64.b64decode(v) for k, v in data.items()})


def keeper_of(server: Server, files: Path | None = None) -> CertificateKeeper:
    cluster: Any = server
    return CertificateKeeper(cluster, Place("system", "webhook", "tls", "seedbed", files))


async def until_asked(server: Server, times: int) -> None:
    async with asyncio.timeout(20):
        while server.asked < times:
            await asyncio.sleep(0.005)


def test_without_the_configuration_the_operator_comes_up_and_fills_it_once_it_is_there() -> None:
    async def body() -> None:
        server = Server()
        server.hooks = None
        keeper = keeper_of(server)
        async with asyncio.timeout(20):
            await keeper.first()
        server.hooks = [HOOK]
        await keeper.look()
        held = server.held()
        assert held is not None
        bundle = base64.b64decode(server.hooks[0]["clientConfig"]["caBundle"])
        assert bundle == held.authorities

    run_async(body())


def test_a_secret_that_fits_no_more_is_filled_anew() -> None:
    async def body() -> None:
        server = Server()
        keeper = keeper_of(server)
        await keeper.look()
        assert server.secret is not None
        server.secret["data"]["tls.crt"] = base64.b64encode(b"nonsense").decode()
        await keeper.look()
        assert server.held() is not None

    run_async(body())


def test_a_secret_that_was_deleted_is_made_again_and_trusted() -> None:
    async def body() -> None:
        server = Server()
        server.may_create = True
        keeper = keeper_of(server)
        await keeper.look()
        server.secret = None
        await keeper.look()
        held = server.held()
        assert held is not None
        assert server.hooks is not None
        bundle = base64.b64decode(server.hooks[0]["clientConfig"]["caBundle"])
        assert bundle == held.authorities

    run_async(body())


@pytest.mark.parametrize("missing", ["secret", "configuration", "right"])
def test_what_goes_missing_while_it_serves_ends_nothing(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_keeper, "LOOK_EVERY", 0.01)

    async def body() -> None:
        server = Server()
        keeper = keeper_of(server)
        await keeper.look()
        if missing == "secret":
            server.secret = None
        elif missing == "configuration":
            server.hooks = None
        else:
            server.failures = [InvalidError("object", "forbidden")]
        keeping = asyncio.create_task(keeper.keep())
        await until_asked(server, server.asked + 6)
        assert not keeping.done()
        keeping.cancel()

    run_async(body())


def test_files_that_are_being_exchanged_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_keeper, "LOOK_EVERY", 0.01)

    async def body() -> None:
        made = Server()
        await keeper_of(made).look()
        good = made.held()
        assert good is not None
        (tmp_path / "tls.crt").write_bytes(good.serving)
        (tmp_path / "tls.key").write_bytes(good.authority_key)
        keeper = keeper_of(Server(), tmp_path)
        keeping = asyncio.create_task(keeper.keep())
        with pytest.raises(OSError, match="KEY_VALUES_MISMATCH"):
            await keeper.look()
        await asyncio.wait({keeping}, timeout=0.05)
        assert not keeping.done()
        (tmp_path / "tls.key").write_bytes(good.serving_key)
        await keeper.look()
        keeping.cancel()

    run_async(body())
