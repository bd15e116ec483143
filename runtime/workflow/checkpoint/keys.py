"""The keys that checkpoints are encrypted under.

A key ring is a file of lines `ID: KEY`, each key 32 bytes in base64; blank lines and lines that begin
with `#` are skipped. The last line is the newest key: it encrypts, the others still decrypt. So rotation
is to add a line. The file is read again when it changes, as a mounted Secret does.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import time
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from seedbed.crds.errors import InvalidError, TerminalError, UnavailableError

KEY_BYTES = 32
NONCE_BYTES = 12
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class KeyLostError(TerminalError):
    """No key of the ring opens what was encrypted.

    Attributes:
        key: id of the key it was encrypted under.
    """

    code = "key_lost"

    def __init__(self, what: str, key: str) -> None:
        super().__init__(f"{what} was encrypted under the key {key!r}, which the key ring has not")
        self.what = what
        self.key = key


class DamagedError(TerminalError):
    """What was stored is not what was written.

    Attributes:
        what: the thing, such as `checkpoint 3 of RUN`.
    """

    code = "damaged"

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is damaged: {why}")
        self.what = what


def new_line(now: float | None = None) -> str:
    """A line with a fresh key; its id is the time and a few random letters."""
    moment = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
    key = base64.b64encode(AESGCM.generate_key(KEY_BYTES * 8)).decode()
    return f"{moment}-{secrets.token_hex(4)}: {key}\n"


def parse(text: str, source: str) -> dict[str, bytes]:
    """Keys by id, in the order of the lines.

    Raises:
        InvalidError: naming the line that is wrong; never its content.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, encoded = line.partition(":")
        where = f"{source} line {number}"
        if not _ID.fullmatch(name.strip()):
            raise InvalidError(where, "expected `ID: KEY`")
        try:
            key = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise InvalidError(where, f"expected a key of {KEY_BYTES} bytes in base64")
        if keys.pop(name.strip(), key) != key:
            raise InvalidError(where, f"the id {name.strip()} is taken by an earlier line")
        keys[name.strip()] = key  # the last line is the newest, also where it is repeated
    if not keys:
        raise InvalidError(source, "holds no key")
    return keys


class KeyRing:
    """Encrypts under the newest key, decrypts under any.

    Each use raises InvalidError where the file cannot be read, UnavailableError where it could before.

    Args:
        path: the key ring's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, bytes] = {}

    @classmethod
    def at(cls, path: Path) -> KeyRing:
        """The ring in a file that is made, with one key and for its owner only, where there is none."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path)
        with os.fdopen(handle, "w") as file:
            file.write(new_line())
            file.flush()
            os.fsync(file.fileno())
        return cls(path)

    @property
    def newest(self) -> str:
        """Id of the key that encrypts now."""
        return next(reversed(self._read()))

    def encrypt(self, data: bytes, bound: bytes) -> tuple[str, bytes]:
        """Encrypt under the newest key.

        Args:
            data: what is hidden.
            bound: what the result is bound to; needed again to decrypt.

        Returns:
            The key's id; nonce, ciphertext and tag in one.
        """
        keys = self._read()
        name = next(reversed(keys))
        nonce = os.urandom(NONCE_BYTES)
        return name, nonce + AESGCM(keys[name]).encrypt(nonce, data, bound)

    def decrypt(self, key: str, data: bytes, bound: bytes, what: str) -> bytes:
        """What was encrypted.

        Raises:
            KeyLostError: the ring has no such key.
            DamagedError: the data is not what was encrypted, or not bound to this.
        """
        known = self._read().get(key)
        if known is None:
            raise KeyLostError(what, key)
        try:
            return AESGCM(known).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bound)
        except (InvalidTag, ValueError) as error:
            raise DamagedError(what, "it does not decrypt under its key") from error

    def _read(self) -> dict[str, bytes]:
        try:
            self._look()
        except InvalidError as error:
            if self._keys:
                # It could be read before: whoever needs it waits until somebody has mended it.
                raise UnavailableError(error.message) from error
            raise
        return self._keys

    def _look(self) -> None:
        """Read the file where it has changed."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._keys = parse(self._path.read_text(), str(self._path))
                self._stamp = stamp
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidError("the key ring", str(error)) from error
