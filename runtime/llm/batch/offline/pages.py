"""Files and batches over HTTP, in OpenAI's form.

    POST   /v1/files                 `purpose=batch` and `file`, a JSON Lines file
    GET    /v1/files                 ?purpose=&after=&limit=
    GET    /v1/files/ID              and /v1/files/ID/content
    DELETE /v1/files/ID              unless a batch that goes on needs it
    POST   /v1/batches               {"input_file_id", "endpoint", "completion_window": "24h", "metadata"}
    GET    /v1/batches               ?after=&limit=
    GET    /v1/batches/ID
    POST   /v1/batches/ID/cancel

Files and batches belong to the caller's namespace; nobody else finds them. A batch that is asked for
again with the same `Idempotency-Key` is the one that is there.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal

import orjson
from aiohttp import BodyPartReader, web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from seedbed.crds.errors import ConflictError, InvalidError, NotFoundError
from seedbed.runtime.llm.batch.offline.form import (
    WINDOW_SECONDS,
    BatchTold,
    FileDeleted,
    FileTold,
    PageOf,
    batch_form,
    error_name,
    file_form,
    page_form,
)
from seedbed.runtime.llm.batch.offline.lines import output_line
from seedbed.runtime.llm.call import Identity
from seedbed.runtime.llm.identity import Identify
from seedbed.runtime.llm.requests import parse
from seedbed.runtime.openapi import says
from seedbed.runtime.store.batch_files import (
    ABANDONED_SECONDS,
    INPUT,
    OUTPUT,
    FileRow,
    SqlBatchFiles,
)
from seedbed.runtime.store.batches import BatchRow, SqlBatches, cancelled

LARGEST_FILE = 200 * 1024 * 1024
LONGEST_UPLOAD = ABANDONED_SECONDS / 2
"""Seconds; what takes longer than twice that is taken for abandoned, and its beginning forgotten."""
_CHUNK = 1024 * 1024
_MOST_LISTED = 100
_KEY = "Idempotency-Key"
_LIMIT = re.compile("[0-9]{1,3}")
_LONGEST_NAME = 256
_LONGEST_FIELD = 1024

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class BatchRequest(BaseModel):
    """What a batch is to be. A field that is not here is refused rather than dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: dict[MetadataKey, MetadataValue] | None = Field(default=None, max_length=16)


class OfflinePages:
    """The pages; `wake` is told that a batch has come or changed."""

    def __init__(
        self,
        files: SqlBatchFiles,
        batches: SqlBatches,
        identify: Identify,
        wake: Callable[[], None],
    ) -> None:
        self._files = files
        self._batches = batches
        self._identify = identify
        self._wake = wake

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files", self.files),
            web.get("/v1/files/{id}", self.file),
            web.get("/v1/files/{id}/content", self.content),
            web.delete("/v1/files/{id}", self.delete),
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.listed),
            web.get("/v1/batches/{id}", self.batch),
            web.post("/v1/batches/{id}/cancel", self.cancel),
        ]

    @says(takes="multipart/form-data", answers=FileTold)
    async def upload(self, http: web.Request) -> web.Response:
        """Takes a file in, chunk by chunk."""
        identity = await self._identify(http)
        if not http.content_type.startswith("multipart/"):
            raise InvalidError("file", "must come as multipart/form-data")
        name = f"file-{secrets.token_hex(12)}"
        try:
            async with asyncio.timeout(LONGEST_UPLOAD):
                row = await self._taken(http, name, identity)
            await self._files.add(row)
        except BaseException as error:
            await self._files.drop_chunks(name)
            if isinstance(error, TimeoutError):
                raise InvalidError("file", f"has not come within {LONGEST_UPLOAD:g} s") from None
            if isinstance(error, ValueError):
                raise InvalidError("file", f"is no multipart/form-data: {error}") from None
            raise
        return _json(file_form(row))

    async def _taken(self, http: web.Request, name: str, identity: Identity) -> FileRow:
        purpose, filename, size = "", "", -1
        async for part in await http.multipart():
            if not isinstance(part, BodyPartReader):
                raise InvalidError("file", "must not be a multipart itself")
            if part.name == "purpose":
                purpose = (await part.read_chunk(_LONGEST_FIELD)).decode(errors="replace")
            elif part.name == "file":
                if size >= 0:
                    raise InvalidError("file", "is there twice")
                filename = (part.filename or "batch.jsonl").replace("\0", "")[:_LONGEST_NAME]
                size = await self._written(part, name)
            else:
                raise InvalidError(str(part.name)[:_LONGEST_NAME], "is not served")
        if purpose != INPUT:
            raise InvalidError("purpose", f"must be {INPUT!r}")
        if size < 0:
            raise InvalidError("file", "is missing")
        if size == 0:
            raise InvalidError("file", "is empty")
        return FileRow(name, identity.namespace, purpose, filename, size, time.time())

    async def _written(self, part: BodyPartReader, name: str) -> int:
        size, number, held = 0, 0, bytearray()
        while data := await part.read_chunk(256 * 1024):
            size += len(data)
            if size > LARGEST_FILE:
                raise InvalidError("file", f"is larger than {LARGEST_FILE} bytes")
            held += data
            if len(held) >= _CHUNK:
                await self._files.add_chunk(name, number, bytes(held))
                number, held = number + 1, bytearray()
        if held:
            await self._files.add_chunk(name, number, bytes(held))
        return size

    @says(query=("purpose", "after", "limit"), answers=PageOf[FileTold])
    async def files(self, http: web.Request) -> web.Response:
        """The namespace's files, the newest first."""
        namespace = (await self._identify(http)).namespace
        limit = _limit(http)
        after = http.query.get("after")
        behind = None if after is None else await self._file(namespace, after)
        purpose = http.query.get("purpose", "")
        if purpose not in ("", INPUT, OUTPUT):
            raise InvalidError("purpose", f"must be {INPUT!r} or {OUTPUT!r}")
        found = await self._files.files(namespace, purpose, behind, limit + 1)
        return _json(page_form([file_form(row) for row in found], limit))

    @says(answers=FileTold)
    async def file(self, http: web.Request) -> web.Response:
        """One file's description."""
        namespace = (await self._identify(http)).namespace
        return _json(file_form(await self._file(namespace, http.match_info["id"])))

    @says(answers=FileDeleted)
    async def delete(self, http: web.Request) -> web.Response:
        """Forgets a file."""
        namespace = (await self._identify(http)).namespace
        row = await self._file(namespace, http.match_info["id"])
        if not await self._files.remove(namespace, row.id):
            raise InvalidError("file_id", "is the input of a batch that goes on")
        gone: FileDeleted = {"id": row.id, "object": "file", "deleted": True}
        return _json(gone)

    @says(gives=("application/jsonl",))
    async def content(self, http: web.Request) -> web.StreamResponse:
        """A file's lines."""
        namespace = (await self._identify(http)).namespace
        row = await self._file(namespace, http.match_info["id"])
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(http)
        async for data in self._lines(row) if row.batch else self._files.content(row.id):
            await response.write(data)
        await response.write_eof()
        return response

    async def _lines(self, row: FileRow) -> AsyncIterator[bytes]:
        """What a batch has written."""
        failed = row.id == error_name(row.batch)
        async for line in self._batches.all_results(row.batch, failed=failed):
            yield output_line(line)

    @says(BatchRequest, answers=BatchTold)
    async def create(self, http: web.Request) -> web.Response:
        """Takes a batch in."""
        identity = await self._identify(http)
        asked = parse(BatchRequest, await http.read())
        name = _name_of(identity.namespace, http.headers.get(_KEY, ""))
        if (known := await self._batches.batch(name)) is not None:
            return _json(batch_form(_same(known, asked)))
        file = await self._files.file(identity.namespace, asked.input_file_id)
        if file is None:
            raise InvalidError("input_file_id", f"there is no file {asked.input_file_id!r}")
        if file.purpose != INPUT:
            raise InvalidError("input_file_id", f"must be a file with the purpose {INPUT!r}")
        now = time.time()
        row = BatchRow(
            id=name,
            namespace=identity.namespace,
            agent=identity.agent,
            workflow=identity.workflow,
            run=identity.run,
            user=identity.user,
            endpoint=asked.endpoint,
            input_file=file.id,
            metadata=orjson.dumps(asked.metadata).decode(),
            status="validating",
            created_at=now,
            expires_at=now + WINDOW_SECONDS,
        )
        try:
            await self._batches.create(row)
        except ConflictError:
            # The same request twice at once: there is one batch.
            return _json(batch_form(_same(await self._batch(identity.namespace, name), asked)))
        self._wake()
        return _json(batch_form(row))

    @says(query=("after", "limit"), answers=PageOf[BatchTold])
    async def listed(self, http: web.Request) -> web.Response:
        """The namespace's batches, the newest first."""
        namespace = (await self._identify(http)).namespace
        limit = _limit(http)
        after = http.query.get("after")
        behind = None if after is None else await self._batch(namespace, after)
        found = await self._batches.listed(namespace, behind, limit + 1)
        return _json(page_form([batch_form(row) for row in found], limit))

    @says(answers=BatchTold)
    async def batch(self, http: web.Request) -> web.Response:
        """One batch."""
        namespace = (await self._identify(http)).namespace
        return _json(batch_form(await self._batch(namespace, http.match_info["id"])))

    @says(answers=BatchTold)
    async def cancel(self, http: web.Request) -> web.Response:
        """Has a batch end early; what is done by then is kept."""
        namespace = (await self._identify(http)).namespace
        name = http.match_info["id"]
        await self._batch(namespace, name)
        row = await cancelled(self._batches, name)
        self._wake()
        return _json(batch_form(row))

    async def _file(self, namespace: str, name: str) -> FileRow:
        row = await self._files.file(namespace, name)
        if row is None:
            raise NotFoundError("file", name)
        return row

    async def _batch(self, namespace: str, name: str) -> BatchRow:
        row = await self._batches.batch(name, namespace)
        if row is None:
            raise NotFoundError("batch", name)
        return row


def _name_of(namespace: str, key: str) -> str:
    """A batch's id: a new one, or the same for the same key."""
    if not key:
        return f"batch_{secrets.token_hex(12)}"
    # Bytes of the header that are no UTF-8 stay what they are.
    made = blake2b(f"{namespace}\0{key}".encode(errors="surrogateescape"), digest_size=12)
    return f"batch_{made.hexdigest()}"


def _same(known: BatchRow, asked: BatchRequest) -> BatchRow:
    if (known.input_file, known.endpoint) != (asked.input_file_id, asked.endpoint):
        raise InvalidError(_KEY, "was used for another batch")
    return known


def _limit(http: web.Request) -> int:
    text = http.query.get("limit", "20")
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= _MOST_LISTED:
        raise InvalidError("limit", f"must be a whole number from 1 to {_MOST_LISTED}")
    return int(text)


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")
