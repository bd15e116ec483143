"""Where a SeedLayer's checkpoints stand: a folder of numbered safetensors files, anywhere fsspec reaches.

A file is whole or not there: on a file system it is written beside and renamed, and an object store shows
an object when all of it has come. Shards of a checkpoint stand beside its file, and come and go with it.

One process writes. The last one that has claimed the place is it: the file `trainer` names its claim, and
whoever finds another one's there writes no more.
"""

from __future__ import annotations

import logging
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from seedbed.crds.errors import FencedError, InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.seeds.fetching import address, told

_FIELD = "spec.checkpoint"
_CLAIM = "trainer"
_NAME = re.compile(r"seeds-(\d{10})\.safetensors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that stands there."""

    number: int
    path: str


class CheckpointPlace:
    """The folder of one SeedLayer.

    Args:
        url: the place of all, a path or a URL.
        folder: this SeedLayer's folder in it.
    """

    def __init__(self, url: str, folder: str) -> None:
        self._url, self._below = url, folder
        self._claim = ""

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system and the folder in it; found when it is first asked for."""
        try:
            files, path = fsspec.core.url_to_fs(self._url)
        except Exception as error:  # packages behind fsspec raise errors of their own
            raise InvalidError(
                _FIELD, f"{address(self._url)} cannot be used: {told(error, self._url)}"
            ) from error
        return files, f"{path.rstrip('/')}/{self._below}"

    @property
    def _files(self) -> Any:
        return self._place[0]

    @property
    def _folder(self) -> str:
        return self._place[1]

    @property
    def _local(self) -> bool:
        return "file" in self._files.protocol

    @contextmanager
    def _asking(
        self, what: str, kind: type[Exception] = Exception, *, may_go: bool = False
    ) -> Iterator[None]:
        """Whatever goes wrong with the place is one error: packages behind fsspec have their own.

        Args:
            what: cannot be done then.
            kind: of what the place may raise.
            may_go: whether a file that is not there is left to the caller.
        """
        try:
            yield
        except SeedbedError:
            raise
        except kind as error:
            if may_go and isinstance(error, FileNotFoundError):
                raise
            where, why = address(self._url), told(error, self._url)
            raise UnavailableError(f"{_FIELD}: {what} at {where}: {why}") from error

    def claim(self) -> None:
        """Fence off whoever wrote here until now; a second call does nothing.

        Raises:
            UnavailableError: the place does not take it.
        """
        if self._claim:
            return
        claim = f"{_number(self._claimed()) + 1} {uuid.uuid4()}"
        with self._asking("checkpoints cannot be claimed"):
            self._files.makedirs(self._folder, exist_ok=True)
            self._files.pipe_file(f"{self._folder}/{_CLAIM}", claim.encode())
        self._claim = claim

    def check_claim(self) -> None:
        """To be called right before a checkpoint is written; claims what could not be claimed before.

        Raises:
            FencedError: another process has claimed the place since.
            UnavailableError: the place does not answer.
        """
        self.claim()
        found = self._claimed()
        if found and found != self._claim:
            what = f"the checkpoints in {self._folder}"
            raise FencedError(what, _number(self._claim), _number(found))

    def _claimed(self) -> str:
        found = b""
        with self._asking("checkpoints cannot be read"), suppress(FileNotFoundError):
            found = self._files.cat_file(f"{self._folder}/{_CLAIM}")
        return found.decode(errors="replace")

    def kept(self) -> list[Kept]:
        """Every checkpoint, the newest first.

        Raises:
            UnavailableError: the place does not answer.
        """
        names: list[str] = []
        with self._asking("checkpoints cannot be listed"), suppress(FileNotFoundError):
            self._files.invalidate_cache()
            names = self._files.ls(self._folder, detail=False)
        found = [
            Kept(int(match[1]), name)
            for name in names
            if (match := _NAME.fullmatch(name.rpartition("/")[2]))
        ]
        return sorted(found, key=lambda each: each.number, reverse=True)

    def store(self, number: int, write: Callable[[Path], None], keep: int) -> int:
        """Write a checkpoint; gives its bytes. All but the newest `keep` are removed afterwards.

        Args:
            number: larger than all before.
            write: makes the file.
            keep: how many stay.

        Raises:
            UnavailableError: the place does not take it.
        """
        size = self._put(f"seeds-{number:010d}.safetensors", write)
        with self._asking("old checkpoints cannot be removed"):
            for old in self.kept()[keep:]:
                for path in (old.path, *self._shards(old)):
                    self._files.rm_file(path)
        return size

    def store_shard(
        self, number: int, shard: int, shards: int, write: Callable[[Path], None]
    ) -> int:
        """Write one shard of a checkpoint, before the checkpoint itself; gives its bytes.

        Raises:
            UnavailableError: the place does not take it.
        """
        return self._put(f"seeds-{number:010d}.{shard}-of-{shards}.safetensors", write)

    def _put(self, name: str, write: Callable[[Path], None]) -> int:
        """Write a file; gives its bytes."""
        failed = "a checkpoint cannot be written"
        with self._asking(failed):
            self._files.makedirs(self._folder, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(self._folder if self._local else folder) / name
            with self._asking(failed, OSError):
                write(file)
                size = file.stat().st_size
            if not self._local:
                with self._asking(failed):
                    self._files.put_file(str(file), f"{self._folder}/{name}")
        return size

    def _shards(self, kept: Kept) -> list[str]:
        """The paths of a checkpoint's shards."""
        start = kept.path.removesuffix(".safetensors") + "."
        names = self._files.ls(self._folder, detail=False)
        return [name for name in names if name.startswith(start) and name != kept.path]

    def newest(self, read: Callable[[Path], None], number: int | None = None) -> Kept | None:
        """Read the newest checkpoint that is whole, or the one of a number; None where there is none.

        Raises:
            UnavailableError: the place does not answer.
            InvalidError: the newest whole one is of another model or another spec.
        """
        for kept in self.kept():
            if number not in (None, kept.number):
                continue
            try:
                self._read(kept, read)
            except BrokenError as error:
                _log.warning(
                    "checkpoint %d is broken, the one before is tried: %s", kept.number, error
                )
            except FileNotFoundError:
                continue  # a newer one has taken its place
            else:
                return kept
        return None

    def _read(self, kept: Kept, read: Callable[[Path], None]) -> None:
        failed = "a checkpoint cannot be read"
        if self._local:
            with self._asking(failed, OSError, may_go=True):
                read(Path(kept.path))
            return
        with tempfile.TemporaryDirectory() as folder:
            for path in (*self._shards(kept), kept.path):
                file = Path(folder) / path.rpartition("/")[2]
                with self._asking(failed, may_go=True):
                    self._files.get_file(path, str(file))
            with self._asking(failed, OSError):
                read(file)


def _number(claim: str) -> int:
    first = claim.partition(" ")[0]
    return int(first) if first.isdecimal() else 0


class BrokenError(InvalidError):
    """A file that is no whole checkpoint."""

    def __init__(self, told: str) -> None:
        super().__init__("checkpoint", told)
