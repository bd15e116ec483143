"""A provider's own batches: OpenAI's batch protocol, as a client.

A provider's batch carries in its metadata which part of ours it is. So where the answer to its making
was lost, it is looked for before another one is made: no line is paid twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import orjson
from yarl import URL

from seedbed.crds.errors import SeedbedError, UnavailableError
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.openai_origin import Origin
from seedbed.runtime.llm.openai_provider import chat_body, embedding_body
from seedbed.runtime.llm.providers import MalformedError
from seedbed.runtime.llm.requests import EmbeddingRequest, Json

PART = "seedbed_part"
"""Key of the metadata that tells which part it is."""
_PAGE = 100
_PAGES = 100
_LARGEST_LINE = 64 * 1024 * 1024
_TIMES = aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=120)
_FIRST_ERROR = 300
_EARLIER = 3600
"""Seconds that the provider's clock may be behind ours."""

State = Literal["under way", "ended", "refused"]
_ENDED = ("completed", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """One batch of a provider.

    Attributes:
        state: `ended` where its results are there, also where it ran out of time or was cancelled;
            `refused` where the provider will not work through it.
        files: of its results, answers first.
        reason: why it was refused.
    """

    id: str
    state: State
    files: tuple[str, ...] = ()
    reason: str = ""


class ProviderBatches:
    """One model's provider. Errors: UnavailableError for now, RefusedError and InvalidError for good.

    Attributes:
        allowed: whether new lines may go there.
    """

    def __init__(self, entry: ModelEntry) -> None:
        self.name = entry.name
        # Where it is not any more, what a provider has already is still followed and paid.
        self.allowed = entry.batch_api
        self._entry = entry
        self._origin = Origin(entry)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It can be asked while the context is open."""
        headers = self._origin.headers()
        async with aiohttp.ClientSession(
            headers=headers, timeout=_TIMES, read_bufsize=1024 * 1024
        ) as self._session:
            yield
        self._session = None

    def line(self, number: int, request: Any) -> bytes:
        """A line of the file for the provider."""
        path, body = "/v1/chat/completions", None
        if isinstance(request, EmbeddingRequest):
            path, body = "/v1/embeddings", embedding_body(request)
        asked = {"model": self._entry.model, **(body or chat_body(self._entry, request))}
        line = {"custom_id": str(number), "method": "POST", "url": path, "body": asked}
        return orjson.dumps(line) + b"\n"

    async def upload(self, name: str, lines: Sequence[bytes]) -> str:
        """Give the provider a file; its id there."""
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", b"".join(lines), filename=name, content_type="application/jsonl")
        return str((await self._json("POST", "/files", data=form)).get("id") or "")

    async def make(self, file: str, endpoint: str, part: str) -> ProviderBatch:
        """Have the provider work through a file."""
        asked = {
            "input_file_id": file,
            "endpoint": endpoint,
            "completion_window": "24h",
            "metadata": {PART: part},
        }
        return self._batch(await self._json("POST", "/batches", json=asked))

    async def find(self, part: str, since: float) -> ProviderBatch | None:
        """The batch that was made for a part, since a Unix time; None where there is none."""
        after: dict[str, str] = {}
        for _ in range(_PAGES):
            query = {"limit": str(_PAGE), **after}
            page = await self._json("GET", "/batches", params=query)
            found: list[Json] = page.get("data") or []
            for each in found:
                if (each.get("metadata") or {}).get(PART) == part:
                    return self._batch(each)
            old = bool(found) and float(found[-1].get("created_at") or 0) < since - _EARLIER
            if not found or old or not page.get("has_more"):
                return None
            after = {"after": str(found[-1]["id"])}
        return None

    async def look(self, batch: str) -> ProviderBatch:
        """A batch as it stands."""
        return self._batch(await self._json("GET", f"/batches/{batch}"))

    async def cancel(self, batch: str) -> None:
        """Have a batch end early; its results are there a while later."""
        await self._json("POST", f"/batches/{batch}/cancel")

    async def results(self, file: str) -> AsyncIterator[bytes]:
        """The lines of a file."""
        async with self._asking("GET", f"/files/{file}/content") as answer:
            held = b""
            async for chunk in answer.content.iter_chunked(1024 * 1024):
                *lines, held = (held + chunk).split(b"\n")
                for line in lines:
                    yield line
                if len(held) > _LARGEST_LINE:
                    raise MalformedError(self.name, "a line of its results is too long")
            if held:
                yield held

    async def forget(self, file: str) -> None:
        """Have the provider delete a file."""
        await self._json("DELETE", f"/files/{file}")

    def _batch(self, told: Json) -> ProviderBatch:
        name, status = str(told.get("id") or ""), told.get("status")
        if not name or not isinstance(status, str):
            raise MalformedError(self.name, "the answer is no batch")
        files = (told.get("output_file_id"), told.get("error_file_id"))
        state: State = "ended" if status in _ENDED else "under way"
        reason = ""
        if status == "failed":
            state = "refused"
            data = (told.get("errors") or {}).get("data") or [{}]
            reason = self._origin.without_key(str(data[0].get("message") or "it failed"))
        return ProviderBatch(name, state, tuple(str(each) for each in files if each), reason)

    async def _json(self, method: str, path: str, **given: Any) -> Json:
        async with self._asking(method, path, **given) as answer:
            try:
                found = orjson.loads(await answer.read())
            except orjson.JSONDecodeError:
                found = None
        if not isinstance(found, dict):
            raise MalformedError(self.name, "the answer is no JSON object")
        return found

    @asynccontextmanager
    async def _asking(
        self, method: str, path: str, **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise UnavailableError(f"model {self.name!r} is not ready")
        refusal: SeedbedError
        try:
            async with self._session.request(
                method, URL(self._origin.url + path), **given
            ) as answer:
                if answer.status >= _FIRST_ERROR:
                    headers: Mapping[str, str] = {k.lower(): v for k, v in answer.headers.items()}
                    refused = self._origin.refusal(answer.status, headers, await answer.read())
                    raise refused
                yield answer
                return
        except TimeoutError:
            refusal = UnavailableError(f"model {self.name!r} does not answer in time")
        except aiohttp.ClientError as error:
            reason = self._origin.without_key(str(error) or type(error).__name__)
            refusal = UnavailableError(f"model {self.name!r} cannot be reached: {reason}")
        raise refusal  # outside of `except`: the original holds the request and so the key
