"""Batches and files as OpenAI's clients read them. Pure.

What OpenAI has no field for stands in `seedbed`: who answered how many lines, what they cost and what
that saved, why the batch stands still, and why lines of a model are worked through at full price.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypedDict, TypeVar

import orjson

from seedbed.crds.money import dollars
from seedbed.runtime.store.batch_files import OUTPUT, FileRow
from seedbed.runtime.store.batches import BatchRow, BatchStatus

WINDOW = "24h"
WINDOW_SECONDS = 86_400.0
_Told = TypeVar("_Told", "BatchTold", "FileTold")


class Fault(TypedDict):
    """What is wrong with a file, or why a batch was given up."""

    code: str
    line: int | None
    message: str
    param: str | None


class Faults(TypedDict):
    """All that are told."""

    object: Literal["list"]
    data: list[Fault]


class LineCounts(TypedDict):
    """Of lines."""

    total: int
    completed: int
    failed: int


class BatchUsage(TypedDict):
    """Tokens of all lines."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class AnsweredBy(TypedDict):
    """Lines by who answered them."""

    provider_batch: int
    gateway: int
    cache: int
    equal_line: int


class BatchAccount(TypedDict):
    """What OpenAI has no field for; money is text."""

    namespace: str
    answered_by: AnsweredBy
    cost_dollars: str
    saved_dollars: str
    halted: str | None
    full_price: dict[str, str]


class BatchTold(TypedDict):
    """A batch, in OpenAI's form; times are Unix times."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: Faults | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    cancelling_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelled_at: int | None
    request_counts: LineCounts
    metadata: dict[str, str] | None
    usage: BatchUsage
    seedbed: BatchAccount


class FileTold(TypedDict):
    """A file, in OpenAI's form; times are Unix times."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"]
    expires_at: int | None
    status_details: str | None


class FileDeleted(TypedDict):
    """A file that is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


class PageOf(TypedDict, Generic[_Told]):
    """Of a list."""

    object: Literal["list"]
    data: list[_Told]
    first_id: str | None
    last_id: str | None
    has_more: bool


def output_name(batch: str) -> str:
    """Id of the file with a batch's answers."""
    return f"file-{batch}-output"


def error_name(batch: str) -> str:
    """Id of the file with what failed."""
    return f"file-{batch}-errors"


def batch_form(row: BatchRow) -> BatchTold:
    """A batch."""
    errors = orjson.loads(row.errors)
    written = row.ended_at is not None
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": row.input_file,
        "completion_window": WINDOW,
        "status": row.status,
        "output_file_id": output_name(row.id) if written and row.completed else None,
        "error_file_id": error_name(row.id) if written and row.failed else None,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        "in_progress_at": _whole(row.in_progress_at),
        "finalizing_at": _whole(row.finalizing_at),
        "cancelling_at": _whole(row.cancelling_at),
        "completed_at": _ended(row, "completed"),
        "failed_at": _ended(row, "failed"),
        "expired_at": _ended(row, "expired"),
        "cancelled_at": _ended(row, "cancelled"),
        "request_counts": {
            "total": row.total,
            "completed": row.completed,
            "failed": row.failed,
        },
        "metadata": orjson.loads(row.metadata),
        "usage": _usage(row),
        "seedbed": {
            "namespace": row.namespace,
            "answered_by": {
                "provider_batch": row.by_provider,
                "gateway": row.by_gateway,
                "cache": row.by_cache,
                "equal_line": row.by_equal,
            },
            "cost_dollars": dollars(row.nanos),
            "saved_dollars": dollars(row.saved),
            "halted": row.reason or None,
            "full_price": orjson.loads(row.notes),
        },
    }


def file_form(row: FileRow) -> FileTold:
    """A file."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size,
        "created_at": int(row.created_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    }


def page_form(found: Sequence[_Told], limit: int) -> PageOf[_Told]:
    """A page of a list, of which one more than `limit` was looked for."""
    shown = list(found[:limit])
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(found) > limit,
    }


def written_by(row: BatchRow, now: float, sizes: tuple[int, int]) -> list[FileRow]:
    """The files that a batch has written; `sizes` are bytes of answers and of errors."""
    named = ((output_name(row.id), "output"), (error_name(row.id), "errors"))
    return [
        FileRow(name, row.namespace, OUTPUT, f"{row.id}_{kind}.jsonl", size, now, row.id)
        for (name, kind), size in zip(named, sizes, strict=True)
        if size
    ]


def _usage(row: BatchRow) -> BatchUsage:
    return {
        "input_tokens": row.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": row.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": row.prompt_tokens + row.completion_tokens,
    }


def _ended(row: BatchRow, how: BatchStatus) -> int | None:
    return _whole(row.ended_at) if row.status == how else None


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)
