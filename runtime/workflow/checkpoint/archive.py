"""Checkpoints outside of the database: a folder, a mounted volume or an object store, by its URL."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from seedbed.crds.errors import InvalidError, UnavailableError

_WAIT = 60.0
_T = TypeVar("_T")


class Archive:
    """Files below a URL that fsspec knows, such as `file:///data` or `s3://bucket/seedbed`.

    Args:
        url: where.
        options: what fsspec's file system takes, such as `endpoint_url`.

    Raises:
        InvalidError: no file system for this URL is installed.
    """

    def __init__(self, url: str, **options: Any) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            raise InvalidError("the checkpoints' URL", str(error)) from error

    async def put(self, name: str, data: bytes) -> str:
        """Write a file; returns where it is. It is complete when this returns.

        Raises:
            UnavailableError: it could not be written.
        """
        path = f"{self._root.rstrip('/')}/{name}"
        try:
            await self._call(path, lambda: self._write(path, data))
        except FileNotFoundError as error:  # there is no such bucket
            raise UnavailableError(f"the archive takes nothing at {path}: {error}") from error
        return path

    async def get(self, path: str) -> bytes | None:
        """A file's bytes, or None where there is none.

        Raises:
            UnavailableError: it could not be read.
        """
        with contextlib.suppress(FileNotFoundError):
            return await self._call(path, lambda: bytes(self._files.cat_file(path)))
        return None

    async def remove(self, path: str) -> None:
        """Delete a file; no error where there is none.

        Raises:
            UnavailableError: it could not be deleted.
        """
        with contextlib.suppress(FileNotFoundError):
            await self._call(path, lambda: self._files.rm_file(path))

    def _write(self, path: str, data: bytes) -> None:
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(path, data)
            return
        self._files.makedirs(self._files._parent(path), exist_ok=True)  # noqa: SLF001  # fsspec's own name for it
        with self._files.open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    async def _call(self, path: str, call: Callable[[], _T]) -> _T:
        try:
            async with asyncio.timeout(_WAIT):
                return await asyncio.to_thread(call)
        except FileNotFoundError:
            raise
        except Exception as error:  # packages behind fsspec raise errors of their own
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"the archive does not answer for {path}: {reason}") from error
