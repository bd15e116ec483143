"""The few requests to a cluster's API server that bringing it up takes, on the standard library.

It speaks JSON over TLS with the administrator's certificate. The product has its own client; this
one must work before anything is installed.
"""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from hack.cluster.certificates import Pair
from hack.cluster.errors import ClusterError

FIELD_MANAGER = "seedbed-cluster"


class ApiError(ClusterError):
    """The API server refused a request.

    Attributes:
        status: The HTTP status code, or 0 when the server could not be reached.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Api:
    """One API server, as the holder of a client certificate.

    Attributes:
        url: Such as `https://127.0.0.1:6443`.
        ca: The authority that signed the server's certificate.
        client: The certificate to show.
    """

    url: str
    ca: Path
    client: Pair

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Any:
        """Send one request and return the decoded answer, or its text if it is not JSON.

        Raises:
            ApiError: The server answered with an error or not at all.
        """
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.client.cert, self.client.key)
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content_type, "Accept": "application/json"},
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=10) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, f"{method} {path}: {error.read().decode()}") from error
        except OSError as error:
            raise ApiError(0, f"{method} {path}: {error}") from error
        try:
            return json.loads(text)
        except ValueError:
            return text

    def ready(self) -> bool:
        """Whether the server says that it serves."""
        try:
            return bool(self.request("GET", "/readyz") == "ok")
        except ApiError:
            return False

    def exists(self, path: str) -> bool:
        """Whether the object at `path` exists."""
        try:
            self.request("GET", path)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def apply(self, path: str, body: dict[str, Any]) -> Any:
        """Server-side apply of one object; `path` names the object."""
        query = f"?fieldManager={FIELD_MANAGER}&force=true"
        return self.request("PATCH", path + query, body, "application/apply-patch+yaml")
