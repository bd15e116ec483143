"""From a state in bytes to what is stored, and back: compressed against an earlier one, encrypted.

    content --zstd, the base's content as prefix--> frame --AES-256-GCM--> stored

The frame stands behind the content's SHA-256, and both inside the encryption: an unkeyed hash in the
open would let a reader test guesses. Run, number and base are bound to the ciphertext, so that one
checkpoint cannot be put in another's place.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass

from seedbed.runtime.workflow.checkpoint.keys import DamagedError, KeyRing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 3
WINDOW_LOG = 27
"""Window of 128 MiB: how far back a delta may reach into its base."""
LARGEST = 1 << 30
"""Bytes that a checkpoint's content may have."""

_DIGEST = 32
_COMPRESS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: LEVEL,
    zstd.CompressionParameter.checksum_flag: 1,
}
_DELTA: dict[int, int] = {
    **_COMPRESS,
    zstd.CompressionParameter.window_log: WINDOW_LOG,
    zstd.CompressionParameter.enable_long_distance_matching: 1,
}
_DECOMPRESS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}


@dataclass(frozen=True, slots=True)
class Label:
    """What a stored checkpoint is bound to. `base` is the number it is a delta of, 0 for a full one."""

    run: str
    number: int
    base: int = 0

    def __str__(self) -> str:
        return f"checkpoint {self.number} of {self.run}"

    @property
    def bound(self) -> bytes:
        """The bytes that the cipher binds."""
        return f"seedbed checkpoint 1\n{self.run}\n{self.number}\n{self.base}".encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A checkpoint as it is stored; `digest` is the SHA-256 of `data`."""

    key: str
    data: bytes
    digest: str


def seal(content: bytes, base: bytes | None, label: Label, keys: KeyRing) -> Sealed:
    """Compress and encrypt. CPU-bound; it leaves the interpreter's lock for nearly all of it."""
    if base is None:
        frame = zstd.compress(content, options=_COMPRESS)
    else:
        prefix = zstd.ZstdDict(base, is_raw=True).as_prefix
        frame = zstd.compress(content, options=_DELTA, zstd_dict=prefix)
    key, data = keys.encrypt(hashlib.sha256(content).digest() + frame, label.bound)
    return Sealed(key, data, hashlib.sha256(data).hexdigest())


def unseal(sealed: Sealed, base: bytes | None, label: Label, keys: KeyRing) -> bytes:
    """The content.

    Args:
        sealed: as stored.
        base: the content of the checkpoint that it is a delta of.
        label: what it should be.
        keys: the key ring.

    Raises:
        DamagedError: it is not what was stored.
        KeyLostError: its key is gone.
    """
    what = str(label)
    if hashlib.sha256(sealed.data).hexdigest() != sealed.digest:
        raise DamagedError(what, "its bytes have changed since it was stored")
    plain = keys.decrypt(sealed.key, sealed.data, label.bound, what)
    try:
        prefix = zstd.ZstdDict(base, is_raw=True).as_prefix if base is not None else None
        content = zstd.decompress(plain[_DIGEST:], zstd_dict=prefix, options=_DECOMPRESS)
    except zstd.ZstdError as error:
        raise DamagedError(what, f"it does not decompress: {error}") from error
    if hashlib.sha256(content).digest() != plain[:_DIGEST]:
        raise DamagedError(what, "its content is not what was written")
    return content
