"""Keeps the webhook's certificate in its Secret and the API server's trust in it up to date."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from seedbed.crds.errors import NotFoundError, SeedbedError
from seedbed.operator.certificates import Certificates, renewed
from seedbed.operator.kubernetes import KubernetesCluster

log = logging.getLogger(__name__)

LOOK_EVERY = 60.0
RETRY_AFTER = 2.0
_MANAGER = urlencode({"fieldManager": "seedbed-webhook", "force": "true"})
_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_JSON = {"Content-Type": "application/json"}
_MERGE = {"Content-Type": "application/merge-patch+json"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the webhook's parts are.

    Attributes:
        files: folder of `tls.crt` and `tls.key` that somebody else renews; None where the operator does.
    """

    namespace: str
    service: str
    secret: str
    configuration: str
    files: Path | None = None

    @property
    def host(self) -> str:
        """The name that the API server calls."""
        return f"{self.service}.{self.namespace}.svc"


class CertificateKeeper:
    """Loads the certificate into `context` and keeps it good."""

    def __init__(self, cluster: KubernetesCluster, place: Place) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._cluster = cluster
        self._place = place
        self._loaded = b""

    async def look(self) -> None:
        """Bring Secret, context and configuration to what they should be.

        Raises:
            SeedbedError, OSError: try again; what was loaded serves meanwhile.
        """
        if self._place.files is not None:
            await asyncio.to_thread(self._load_files, self._place.files)
            return
        known, version = await self._read()
        good = renewed(known, self._place.host, datetime.now(UTC))
        if good != known:
            await self._write(good, version)
            log.info("the webhook has a new certificate")
        if self._loaded != good.serving:
            await asyncio.to_thread(self._load, good.serving, good.serving_key)
        await self._trust(good.authorities)

    async def keep(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.look()
            except (SeedbedError, OSError) as error:
                log.warning("the webhook's certificate waits: %s", error)

    async def first(self) -> None:
        """Look until it has worked once."""
        while True:
            try:
                await self.look()
            except (SeedbedError, OSError) as error:
                log.warning("the webhook's certificate waits: %s", error)
                await asyncio.sleep(RETRY_AFTER)
            else:
                return

    def _secret(self) -> str:
        return f"/api/v1/namespaces/{self._place.namespace}/secrets"

    async def _read(self) -> tuple[Certificates | None, str]:
        try:
            found = await self._cluster.request("GET", f"{self._secret()}/{self._place.secret}")
        except NotFoundError:
            return None, ""
        data = {name: base64.b64decode(text) for name, text in (found.get("data") or {}).items()}
        return Certificates.from_data(data), str(found["metadata"]["resourceVersion"])

    async def _write(self, good: Certificates, version: str) -> None:
        """Create or replace just the version that was read: another replica may have been faster."""
        data = {name: base64.b64encode(pem).decode() for name, pem in good.as_data().items()}
        if version:
            # Only what is ours: labels and annotations are those of whoever installed the Secret.
            patch = {"metadata": {"resourceVersion": version}, "data": data}
            path = f"{self._secret()}/{self._place.secret}"
            await self._cluster.request("PATCH", path, patch, _MERGE)
            return
        metadata = {"name": self._place.secret}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        await self._cluster.request("POST", self._secret(), body, _JSON)

    async def _trust(self, authorities: bytes) -> None:
        base = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
        path = f"{base}/{self._place.configuration}"
        try:
            found = await self._cluster.request("GET", path)
        except NotFoundError:
            # As the runbook has it done in an emergency: then nobody is asked, and work goes on.
            log.warning("there is no ValidatingWebhookConfiguration %s", self._place.configuration)
            return
        bundle = base64.b64encode(authorities).decode()
        hooks = found.get("webhooks") or ()
        if all(hook["clientConfig"].get("caBundle") == bundle for hook in hooks):
            return
        body = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": self._place.configuration},
            "webhooks": [
                {"name": hook["name"], "clientConfig": {"caBundle": bundle}} for hook in hooks
            ],
        }
        await self._cluster.request("PATCH", f"{path}?{_MANAGER}", body, _APPLY)

    def _load_files(self, folder: Path) -> None:
        certificate = (folder / "tls.crt").read_bytes()
        if certificate != self._loaded:
            self._use(folder / "tls.crt", folder / "tls.key")
            self._loaded = certificate

    def _load(self, certificate: bytes, key: bytes) -> None:
        """The standard library loads from files only."""
        with tempfile.TemporaryDirectory() as folder:
            crt, own = Path(folder) / "tls.crt", Path(folder) / "tls.key"
            crt.write_bytes(certificate)
            own.touch(mode=0o600)
            own.write_bytes(key)
            self._use(crt, own)
        self._loaded = certificate

    def _use(self, certificate: Path, key: Path) -> None:
        """Load a pair; one that does not fit leaves what is loaded."""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        self.context.load_cert_chain(certificate, key)
