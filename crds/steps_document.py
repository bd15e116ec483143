"""The document that `spec.stepsFrom` names: text in, checked steps out.

YAML or JSON, plain or compressed with gzip or zstd (told by its first bytes): a list of steps, or an
object whose `steps` are that list. Pure, and bounded in size before and after it is unpacked, since
anybody who may make a Workflow may hand one in.
"""

from __future__ import annotations

import sys
import zlib
from typing import Annotated, Any

import orjson
import yaml
from pydantic import Field, TypeAdapter, ValidationError

from seedbed.crds.base import Model
from seedbed.crds.errors import InvalidError
from seedbed.crds.step import Step
from seedbed.crds.templates import below
from seedbed.crds.workflow import MAX_STEPS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DOCUMENT_LIMIT = 32 * 1024 * 1024
"""Bytes that a document may have as it is handed in."""
UNPACKED_LIMIT = 128 * 1024 * 1024
"""Bytes that it may have once it is unpacked."""
NODE_LIMIT = 10_000_000
"""Values that it may hold once its YAML aliases are replaced."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_Steps = Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]
_STEPS: TypeAdapter[tuple[Step, ...]] = TypeAdapter(_Steps)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SAID = {"missing": "is required", "extra_forbidden": "is no known field"}


class _Document(Model):
    steps: _Steps


def read_steps(data: bytes, field: str = "steps") -> tuple[Step, ...]:
    """The steps of a document, checked one by one as the API server would.

    A document that begins with a bracket is JSON and never held as dictionaries: large plans are.

    Args:
        data: the document as it was handed in.
        field: what errors call it.

    Raises:
        InvalidError: naming the first thing that is wrong.
    """
    if len(data) > DOCUMENT_LIMIT:
        expected = f"has {len(data)} bytes, at most {DOCUMENT_LIMIT} are possible"
        raise InvalidError(field, expected)
    text = _unpacked(data, field)
    if text.lstrip()[:1] not in (b"[", b"{"):
        text = _json_of_yaml(text, field)
    return steps_from_json(text, field)


def steps_from_json(data: bytes, field: str = "steps") -> tuple[Step, ...]:
    """Steps from JSON; see `read_steps`."""
    try:
        if data.lstrip()[:1] == b"{":
            return _Document.model_validate_json(data, strict=True).steps
        return _STEPS.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        path = ""
        for part in first["loc"]:
            path = f"{path}[{part}]" if isinstance(part, int) else below(path, str(part))
        message = _SAID.get(first["type"], first["msg"])
        where = f"{path.removeprefix('.')} " if path else ""
        raise InvalidError(field, f"{where}{message[:1].lower()}{message[1:]}") from error


def steps_to_json(steps: tuple[Step, ...]) -> bytes:
    """Steps as a JSON list in their shortest form: the same steps give the same bytes."""
    return _STEPS.dump_json(steps, by_alias=True, exclude_defaults=True)


def packed(steps: tuple[Step, ...]) -> bytes:
    """Steps as a small document: what `seedbed plan push` sends."""
    return zstd.compress(steps_to_json(steps), level=9)


def _unpacked(data: bytes, field: str) -> bytes:
    try:
        if data.startswith(_GZIP):
            unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
            data = unpack.decompress(data, UNPACKED_LIMIT + 1)
            if not unpack.eof and len(data) <= UNPACKED_LIMIT:
                raise InvalidError(field, "the gzip data ends too early")
        elif data.startswith(_ZSTD):
            unpacking = zstd.ZstdDecompressor()
            data = unpacking.decompress(data, max_length=UNPACKED_LIMIT + 1)
            if not unpacking.eof and len(data) <= UNPACKED_LIMIT:
                raise InvalidError(field, "the zstd data ends too early")
    except (zlib.error, zstd.ZstdError) as error:
        raise InvalidError(field, f"cannot be unpacked: {error}") from error
    if len(data) > UNPACKED_LIMIT:
        raise InvalidError(field, f"has more than {UNPACKED_LIMIT} bytes once it is unpacked")
    return data


def _json_of_yaml(data: bytes, field: str) -> bytes:
    try:
        text = data.decode()
        document = yaml.load(text, _LOADER)  # noqa: S506  # a safe loader, the fast one if there is one
        if not isinstance(document, dict | list):
            raise InvalidError(field, "expected a list of steps, or an object with `steps`")
        if "&" in text:
            _check_aliases(document, field)
        return orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)
    except UnicodeDecodeError as error:
        raise InvalidError(field, "is neither text nor packed with gzip or zstd") from error
    except yaml.YAMLError as error:
        raise InvalidError(field, f"is no YAML: {' '.join(str(error).split())}") from error
    except TypeError as error:
        raise InvalidError(field, f"holds what JSON cannot: {error}") from error


def _check_aliases(value: Any, field: str) -> None:
    """A few nested aliases can stand for more than any memory holds, or for themselves.

    Each part is looked at once, however often it is named.
    """
    sizes: dict[int, int] = {}

    def size(part: Any) -> int:
        if not isinstance(part, dict | list):
            return 1
        known = sizes.get(id(part))
        if known is None:
            sizes[id(part)] = UNPACKED_LIMIT  # a part that holds itself
            inside = part.values() if isinstance(part, dict) else part
            known = sizes[id(part)] = 1 + sum(map(size, inside))
        return known

    if size(value) > NODE_LIMIT:
        raise InvalidError(field, f"its YAML aliases stand for more than {NODE_LIMIT} values")
