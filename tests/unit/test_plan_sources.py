"""Where engines read plans from: only what is allowed, only what has the hash that was told."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import ssl
import traceback
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import InvalidError, PlanUnavailableError, SeedbedError
from seedbed.crds.messages import RunRequest
from seedbed.operator.certificates import renewed
from seedbed.runtime.store.plans import Plans
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow import plan_sources
from seedbed.runtime.workflow.plan import Start, reopened
from seedbed.runtime.workflow.plan_sources import Allowed, PlanSources
from tests.conftest import run_async

STEPS = [{"name": f"s{i}", "call": {"entry": "m:f"}} for i in range(3)]
DOCUMENT = json.dumps(STEPS).encode()
DIGEST = hashlib.sha256(DOCUMENT).hexdigest()


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs on an event loop."""

    @functools.wraps(test)
    def call(*arguments: Any, **named: Any) -> None:
        run_async(test(*arguments, **named))

    return call


class Kept:
    """A store without runs, and pushed plans."""

    def __init__(self, **plans: bytes) -> None:
        self.plans = plans
        self.asked = 0

    async def run(self, run: str) -> Any:
        return None if run == "new" else object()

    async def data(self, namespace: str, digest: str) -> bytes | None:
        self.asked += 1
        return self.plans.get(f"{namespace}_{digest}")


def sources(kept: Kept, allowed: Allowed | None = None) -> PlanSources:
    return PlanSources(cast("Store", kept), cast("Plans", kept), allowed or Allowed())


def submit(run: str = "new", *, document: str = "", packed: bool = False, **source: Any) -> Submit:
    spec = {"stepsFrom": source, "result": "1", "params": {"x": 1}}
    return Submit(RunRequest(run, "team", "plan", spec), document, packed)


def artifact(url: str, sha256: str | None = DIGEST) -> Submit:
    said = {"url": url, "sha256": sha256} if sha256 else {"url": url}
    return submit(artifact=said)


def names(found: Start | Submit) -> list[str]:
    assert isinstance(found, Start)
    return list(found.plan.graph.nodes)


@on_loop
async def test_a_pushed_plan_is_read_from_the_own_store_of_the_namespace() -> None:
    kept = Kept(**{f"team_{DIGEST}": DOCUMENT})
    found = await sources(kept).ready(artifact(f"seedbed://sha256/{DIGEST}", None))
    assert names(found) == ["s0", "s1", "s2"]
    elsewhere = Kept(**{f"other_{DIGEST}": DOCUMENT})
    with pytest.raises(PlanUnavailableError, match="was pushed to namespace team"):
        await sources(elsewhere).ready(artifact(f"seedbed://sha256/{DIGEST}", None))


@on_loop
async def test_steps_from_elsewhere_are_kept_under_their_hash_and_not_in_the_request() -> None:
    text = base64.b64encode(DOCUMENT).decode()
    found = await sources(Kept()).ready(
        submit(document=text, packed=True, configMap={"name": "plan"})
    )
    assert isinstance(found, Start)
    assert found.request.spec == {"result": "1", "params": {"x": 1}}
    assert set(found.values) == {found.request.steps}
    again = await reopened(found.request, found.values[found.request.steps])
    assert again.spec == found.plan.spec
    assert list(again.graph.nodes) == names(found)
    with pytest.raises(InvalidError, match="is missing"):
        await reopened(found.request, None)


@on_loop
async def test_a_run_that_is_known_is_not_read_for_again() -> None:
    kept = Kept()
    known = submit("known", artifact={"url": f"seedbed://sha256/{DIGEST}"})
    assert await sources(kept).ready(known) is known
    assert kept.asked == 0


@on_loop
async def test_small_inline_plans_stay_in_the_request_and_large_ones_do_not() -> None:
    small = Submit(RunRequest("new", "team", "plan", {"steps": STEPS}))
    assert await sources(Kept()).ready(small) is small
    many = [{"name": f"s{i}", "call": {"entry": "m:f"}} for i in range(500)]
    found = await sources(Kept()).ready(Submit(RunRequest("new", "team", "p", {"steps": many})))
    assert isinstance(found, Start)
    assert "steps" not in found.request.spec
    assert len(found.plan.spec.steps) == len(many)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://169.254.169.254/latest", "no plans from host `169.254.169.254`"),
        ("https://good.example.com:8443/p", "no plans from host `good.example.com:8443`"),
        ("https://good.example.com@evil.example.com/p", "no plans from host"),
        ("file:../secret.json", "leads out of the folder"),
        ("file:link.json", "leads out of the folder"),
        ("file:/other.json", "has SHA-256"),
    ],
)
def test_nothing_else_is_read(tmp_path: Path, url: str, said: str) -> None:
    folder = tmp_path / "plans"
    folder.mkdir()
    (tmp_path / "secret.json").write_bytes(DOCUMENT)
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    (folder / "other.json").write_bytes(b"[]")
    allowed = Allowed(frozenset({"good.example.com"}), folder)
    with pytest.raises(InvalidError, match=said):
        asyncio.run(sources(Kept(), allowed).ready(artifact(url)))


@on_loop
async def test_files_below_the_folder_are_read_and_missing_ones_may_come(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(DOCUMENT)
    from_folder = sources(Kept(), Allowed(folder=tmp_path))
    assert names(await from_folder.ready(artifact("file:plan.json")))
    with pytest.raises(PlanUnavailableError, match=r"file:later\.json cannot be read"):
        await from_folder.ready(artifact("file:later.json"))
    with pytest.raises(InvalidError, match="no folder with plans"):
        await sources(Kept()).ready(artifact("file:plan.json"))


@on_loop
async def test_a_plan_that_cannot_run_is_refused_with_its_source() -> None:
    text = "- {name: a, call: {entry: 'm:f'}, needs: [a]}"
    said = r"ConfigMap `plan`, key `steps\.yaml`: .*cannot need itself"
    with pytest.raises(InvalidError, match=said):
        await sources(Kept()).ready(submit(document=text, configMap={"name": "plan"}))


@on_loop
async def test_https_plans_come_from_allowed_hosts_without_redirects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"/plan": DOCUMENT, "/large": b"x" * 5000}

    async def page(request: web.BaseRequest) -> web.Response:
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/plan"})
        return web.Response(body=pages[request.path])

    monkeypatch.setattr(plan_sources, "DOCUMENT_LIMIT", 1000)
    port, trust, stop = await _secure_server(page, tmp_path)
    try:
        host = f"localhost:{port}"
        allowed = sources(Kept(), Allowed(frozenset({host}), trust=trust))
        assert names(await allowed.ready(artifact(f"https://{host}/plan")))
        with pytest.raises(PlanUnavailableError, match="answers 302"):
            await allowed.ready(artifact(f"https://{host}/moved"))
        with pytest.raises(InvalidError, match="more than 1000 bytes"):
            await allowed.ready(artifact(f"https://{host}/large"))
        strangers = sources(Kept(), Allowed(frozenset({host})))
        with pytest.raises(PlanUnavailableError, match="certificate"):
            await strangers.ready(artifact(f"https://{host}/plan"))
    finally:
        await stop()


SIGNED = "X-Amz-Credential=AKIA%2F20261121%2Fs3&X-Amz-Signature=s3cr3t%2B%2F%3D&t=%7E"


@on_loop
async def test_a_signed_url_is_sent_as_it_was_signed_and_its_signature_is_told_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    monkeypatch.setattr(plan_sources, "DOCUMENT_LIMIT", 1000)
    pages = {"/b/a%2Fplan": DOCUMENT, "/large": b"x" * 5000, "/wrong": b"- {name: 1}"}

    async def page(request: web.BaseRequest) -> web.Response:
        path, _, query = request.raw_path.partition("?")
        if query != SIGNED or path == "/cut":
            return web.Response(status=403)
        return web.Response(body=pages[path])

    port, trust, stop = await _secure_server(page, tmp_path)
    errors: list[str] = []
    try:
        host = f"localhost:{port}"
        allowed = sources(Kept(), Allowed(frozenset({host}), trust=trust))
        anywhere = sources(Kept(), Allowed(None, trust=trust))
        assert names(await allowed.ready(artifact(f"https://{host}/b/a%2Fplan?{SIGNED}")))
        wrong = hashlib.sha256(pages["/wrong"]).hexdigest()
        for reader, url, digest, said in (
            (allowed, f"{host}/cut?{SIGNED}", DIGEST, f"https://{host}/cut?... answers 403"),
            (allowed, f"{host}/large?{SIGNED}", DIGEST, "more than 1000 bytes"),
            (allowed, f"{host}/wrong?{SIGNED}", DIGEST, f"has SHA-256 {wrong}"),
            (allowed, f"{host}/wrong?{SIGNED}", wrong, f"https://{host}/wrong?...: "),
            (allowed, f"me:s3cr3t@{host}/plan", DIGEST, f"no plans from host `{host}`"),
            (allowed, f"other.example.com/p?{SIGNED}", DIGEST, "host `other.example.com`"),
            (anywhere, f"localhost:1/p?{SIGNED}", DIGEST, "https://localhost:1/p?... does not"),
            (anywhere, f"[s3cr3t/p?{SIGNED}", DIGEST, "is no URL"),
            (anywhere, f"localhost:x/p?{SIGNED}", DIGEST, "is no URL"),
        ):
            with pytest.raises(SeedbedError) as raised:
                await reader.ready(artifact(f"https://{url}", digest))
            assert said in raised.value.message
            errors.append("".join(traceback.format_exception(raised.value)))
    finally:
        await stop()
    logged = [one.getMessage() for one in caplog.records if one.name != "aiohttp.access"]
    assert "s3cr3t" not in "".join((*errors, *logged))


async def _secure_server(page: Any, folder: Path) -> tuple[int, ssl.SSLContext, Any]:
    """A server on a loopback port, who trusts it, and how it stops."""
    made = renewed(None, "localhost", datetime.now(UTC))
    pair = folder / "pair.pem"
    pair.write_bytes(made.serving + made.serving_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    runner = web.ServerRunner(web.Server(page))
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    trust = ssl.create_default_context(cadata=made.authorities.decode())
    return runner.addresses[0][1], trust, runner.cleanup
