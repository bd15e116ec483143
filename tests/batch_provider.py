"""The batch API of a provider: files and batches, worked through when they are looked at."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

Json = dict[str, Any]


@dataclass(slots=True)
class FakeBatches:
    """OpenAI's batch protocol as a provider speaks it.

    Attributes:
        held: whether batches stay in progress until this is taken back.
        loses: makings whose answer never comes, though the batch is made.
        cuts: makings whose connection ends, though the batch is made.
        fail_list: statuses of the next requests for a list of batches.
        status: what every batch is said to be, empty for what it is.
        ends_first: whether a batch that is to be cancelled has come to its end just before.
        unreadable: whether results are answered with a 500.
        says: the lines of results, in place of answers.
        fail: statuses of the next requests to make a batch, instead of making it.
        refuse: why every batch fails as a whole; empty where none does.
        most: lines of a batch, at most; 0 for any.
        leaves_out: numbers of lines that no result tells of.
        broken: numbers of lines that fail by themselves.
        made: batches by id; `files` by id.
        lines: of all batches that were worked through, with the prompt of each.
        forgotten: files that were deleted.
    """

    held: bool = False
    loses: int = 0
    cuts: int = 0
    fail_list: list[int] = field(default_factory=list)
    status: str = ""
    ends_first: bool = False
    unreadable: bool = False
    says: list[Any] = field(default_factory=list)
    fail: list[int] = field(default_factory=list)
    refuse: str = ""
    most: int = 0
    leaves_out: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    made: dict[str, Json] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    billed: list[tuple[int, int]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    asked_to_make: int = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files/{id}/content", self.content),
            web.delete("/v1/files/{id}", self.delete),
            web.post("/v1/batches", self.make),
            web.get("/v1/batches", self.listed),
            web.get("/v1/batches/{id}", self.look),
            web.post("/v1/batches/{id}/cancel", self.cancel),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        data = b""
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.name == "file":
                data = bytes(await part.read())
        name = f"up-{len(self.files)}"
        self.files[name] = data
        return web.json_response({"id": name, "object": "file"})

    async def content(self, request: web.Request) -> web.Response:
        if self.unreadable:
            return web.Response(status=500)
        return web.Response(body=self.files[request.match_info["id"]])

    async def delete(self, request: web.Request) -> web.Response:
        self.forgotten.append(request.match_info["id"])
        return web.json_response({"deleted": True})

    async def make(self, request: web.Request) -> web.Response:
        self.asked_to_make += 1
        if self.fail:
            return web.json_response({"error": {"message": "told to"}}, status=self.fail.pop(0))
        asked = await request.json()
        name = f"b-{len(self.made)}"
        self.made[name] = {
            "id": name,
            "object": "batch",
            "status": "in_progress",
            "created_at": int(time.time()),
            **asked,
        }
        if self.loses:
            self.loses -= 1
            await asyncio.Event().wait()
        if self.cuts:
            self.cuts -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(self.made[name])

    async def listed(self, request: web.Request) -> web.Response:
        if self.fail_list:
            return web.json_response({}, status=self.fail_list.pop(0))
        limit = int(request.query.get("limit", "20"))
        names = [*reversed(self.made)]
        if after := request.query.get("after"):
            names = names[names.index(after) + 1 :]
        data = [self.made[name] for name in names[:limit]]
        return web.json_response({"object": "list", "data": data, "has_more": len(names) > limit})

    async def look(self, request: web.Request) -> web.Response:
        batch = self.made[request.match_info["id"]]
        if batch["status"] == "in_progress" and not self.held:
            self._work(batch)
        if batch["status"] == "cancelling":
            batch["status"] = "cancelled"
        return web.json_response({**batch, **({"status": self.status} if self.status else {})})

    async def cancel(self, request: web.Request) -> web.Response:
        batch = self.made[request.match_info["id"]]
        if self.ends_first:
            self._work(batch)
            error = {"error": {"message": "Cannot cancel a batch that is completed"}}
            return web.json_response(error, status=400)
        if batch["status"] == "in_progress":
            batch["status"] = "cancelling"
        return web.json_response(batch)

    def _work(self, batch: Json) -> None:
        asked = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        too_many = self.most and len(asked) > self.most
        if self.refuse or too_many:
            reason = self.refuse or "Enqueued token limit reached"
            batch |= {"status": "failed", "errors": {"data": [{"message": reason}]}}
            return
        done: list[Json] = []
        failed: list[Json] = []
        for line in asked:
            if line["custom_id"] in self.leaves_out:
                continue
            body = line["body"]
            text = " ".join(_texts(body))
            self.lines.append(text)
            head = {"id": f"r-{line['custom_id']}", "custom_id": line["custom_id"]}
            if line["custom_id"] in self.broken:
                error = {"error": {"message": "a bad prompt", "type": "invalid_request_error"}}
                failed.append({**head, "response": {"status_code": 400, "body": error}})
                continue
            answer = self._embedded(body) if "input" in body else self._answered(body, text)
            done.append({**head, "response": {"status_code": 200, "body": answer}, "error": None})
        batch["status"] = "completed"
        done = self.says or done
        for key, found in (("output_file_id", done), ("error_file_id", failed)):
            if found:
                name = f"{batch['id']}-{key}"
                texts = (one if isinstance(one, str) else json.dumps(one) for one in found)
                self.files[name] = b"".join(text.encode() + b"\n" for text in texts)
                batch[key] = name

    def _answered(self, body: Json, text: str) -> Json:
        said = f"batch says {text}"
        prompt, answer = len(text.split()), len(said.split())
        self.billed.append((prompt, answer))
        message = {"role": "assistant", "content": said, "refusal": None}
        return {
            "id": "c-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": answer,
                "total_tokens": prompt + answer,
            },
        }

    def _embedded(self, body: Json) -> Json:
        data = [
            {"object": "embedding", "index": at, "embedding": [float(len(text)), 1.0]}
            for at, text in enumerate(body["input"])
        ]
        tokens = sum(len(text.split()) for text in body["input"])
        self.billed.append((tokens, 0))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _texts(body: Json) -> list[str]:
    if "input" in body:
        return list(body["input"])
    return [str(message.get("content") or "") for message in body["messages"]]
