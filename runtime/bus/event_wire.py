"""Batches and dead letters as bytes.

A batch is `zstd(header + newline + payloads)`. The header is JSON: version, who sent the batch and its
number in the sender's lane, whom it is for (empty: all), and key, kind, time and payload size of each
event; the payloads follow as they are. A dead letter has its header in JSON, then the payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import zstandard

from seedbed.crds.errors import InvalidError
from seedbed.runtime.bus.events import DeadLetter, Event, Priority

VERSION = 1
_LARGEST = 64 * 1024 * 1024
_LEVEL = 1

_compressor = zstandard.ZstdCompressor(level=_LEVEL)
_decompressor = zstandard.ZstdDecompressor()


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
    return _compressor.compress(b"\n".join((header, payloads)))


def decode_batch(data: bytes, priority: Priority) -> Batch:
    """A batch from bytes.

    Raises:
        InvalidError: they are none of a version that this code knows.
    """
    try:
        if zstandard.frame_content_size(data) > _LARGEST:
            raise InvalidError("batch", f"larger than {_LARGEST} bytes")
        plain = _decompressor.decompress(data, max_output_size=_LARGEST)
        at = plain.index(b"\n")
        version, source, number, only, rows = orjson.loads(plain[:at])
        if version != VERSION:
            raise InvalidError("batch", f"version {version} is not known, expected {VERSION}")
        events = []
        at += 1
        for key, kind, when, size in rows:
            end = at + size
            events.append(Event(key, kind, when, plain[at:end], priority))
            at = end
    except (zstandard.ZstdError, ValueError, TypeError) as error:
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
