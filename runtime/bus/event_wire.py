"""Batches and dead letters as bytes.

A batch is `zstd(header + newline + payloads)`. The header is JSON: version, who sent the batch and its
number in the sender's lane, whom it is for (empty: all), and key, kind, time and payload size of each
event; the payloads follow as they are. A dead letter has its header in JSON, then the payload.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from seedbed.crds.errors import InvalidError
from seedbed.runtime.bus.events import DeadLetter, Event, Priority

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VERSION = 1
_LARGEST = 64 * 1024 * 1024
_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one lane.

    Attributes:
        source: names the process that sent it, for as long as that lived.
        number: 1, 2, ... in the source's lane: what is missing in between was lost.
        only: the follower it is for; empty where it is for all.
    """

    source: str
    number: int
    events: Sequence[Event]
    only: str = ""


def encode_batch(batch: Batch) -> bytes:
    """A batch as bytes."""
    rows = [(e.key, e.kind, e.at, len(e.payload)) for e in batch.events]
    header = orjson.dumps((VERSION, batch.source, batch.number, batch.only, rows))
    payloads = b"".join([event.payload for event in batch.events])
    return zstd.compress(b"\n".join((header, payloads)), level=_LEVEL)


def decode_batch(data: bytes, priority: Priority) -> Batch:
    """A batch from bytes.

    Raises:
        InvalidError: they are none of a version that this code knows.
    """
    try:
        size = zstd.get_frame_info(data).decompressed_size
        if size is None or size > _LARGEST:
            raise InvalidError("batch", f"larger than {_LARGEST} bytes")
        plain = zstd.decompress(data)
        at = plain.index(b"\n")
        version, source, number, only, rows = orjson.loads(plain[:at])
        if version != VERSION:
            raise InvalidError("batch", f"version {version} is not known, expected {VERSION}")
        events = []
        at += 1
        for key, kind, when, length in rows:
            end = at + length
            events.append(Event(key, kind, when, plain[at:end], priority))
            at = end
    except (zstd.ZstdError, ValueError, TypeError) as error:
        raise InvalidError("batch", f"cannot be read: {error}") from error
    return Batch(source, number, events, only)


def encode_letter(letter: DeadLetter) -> bytes:
    """A dead letter as bytes; its number is not part of them."""
    event = letter.event
    told = (letter.follower, letter.failures, letter.reason, letter.at)
    header = orjson.dumps((VERSION, *told, event.key, event.kind, event.at, event.priority))
    return b"\n".join((header, event.payload))


def decode_letter(data: bytes, number: int) -> DeadLetter:
    """A dead letter from bytes.

    Raises:
        InvalidError: they are none of a version that this code knows.
    """
    header, _, payload = data.partition(b"\n")
    try:
        version, follower, failures, reason, at, *event = orjson.loads(header)
        if version != VERSION:
            raise InvalidError("dead letter", f"version {version} is not known, not {VERSION}")
        key, kind, when, priority = event
    except (ValueError, TypeError) as error:
        raise InvalidError("dead letter", f"cannot be read: {error}") from error
    told = Event(key, kind, when, payload, priority)
    return DeadLetter(told, follower, failures, reason, at, number)
