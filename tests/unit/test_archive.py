"""The archive of checkpoints behind a URL: whatever its package raises, the engine goes on."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.workflow.checkpoint.archive import Archive
from tests.conftest import run_async


class _NoCredentials(Exception):  # noqa: N818 - as the packages of object stores name theirs
    """An error that is no OSError."""


class _Odd(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """An object store that answers nothing."""

    protocol = "odd"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if "gone" in path:
            raise FileNotFoundError("the bucket does not exist")
        raise _NoCredentials("no key was given")

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        raise _NoCredentials("no key was given")

    def rm_file(self, path: str) -> None:
        raise _NoCredentials("no key was given")


def test_what_an_object_store_raises_means_that_it_is_away() -> None:
    fsspec.register_implementation("odd", _Odd, clobber=True)
    archive = Archive("odd://bucket/seedbed")

    async def body() -> None:
        for call in (archive.put("a", b"b"), archive.get("a"), archive.remove("a")):
            with pytest.raises(UnavailableError, match="no key was given"):
                await call
        with pytest.raises(UnavailableError, match="the bucket does not exist"):
            await archive.put("gone", b"b")

    run_async(body())
