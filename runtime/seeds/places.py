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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fsspec

from seedbed.crds.errors import FencedError, InvalidError, UnavailableError

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
        try:
            self._files, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InvalidError("spec.checkpoint.url", f"{url} cannot be used: {error}") from error
        self._folder = f"{path.rstrip('/')}/{folder}"
        self._local = "file" in self._files.protocol
        self._claim = ""

    def claim(self) -> None:
        """Fence off whoever wrote here until now; a second call does nothing.

        Raises:
            UnavailableError: the place does not take it.
        """
        if self._claim:
            return
        claim = f"{_number(self._claimed()) + 1} {uuid.uuid4()}"
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            self._files.pipe_file(f"{self._folder}/{_CLAIM}", claim.encode())
        except OSError as error:
            raise UnavailableError(f"checkpoints cannot be claimed: {error}") from error
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
        try:
            found: bytes = self._files.cat_file(f"{self._folder}/{_CLAIM}")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise UnavailableError(f"checkpoints cannot be read: {error}") from error
        return found.decode(errors="replace")

    def kept(self) -> list[Kept]:
        """Every checkpoint, the newest first.

        Raises:
            UnavailableError: the place does not answer.
        """
        try:
            self._files.invalidate_cache()
            names = self._files.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnavailableError(f"checkpoints cannot be listed: {error}") from error
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
        name = f"{self._folder}/seeds-{number:010d}.safetensors"
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            if self._local:
                write(Path(name))
                size = Path(name).stat().st_size
            else:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / "seeds.safetensors"
                    write(file)
                    self._files.put_file(str(file), name)
                    size = file.stat().st_size
            for old in self.kept()[keep:]:
                for path in (old.path, *self._shards(old)):
                    self._files.rm_file(path)
        except OSError as error:
            raise UnavailableError(f"a checkpoint cannot be written: {error}") from error
        return size

    def store_shard(
        self, number: int, shard: int, shards: int, write: Callable[[Path], None]
    ) -> int:
        """Write one shard of a checkpoint, before the checkpoint itself; gives its bytes.

        Raises:
            UnavailableError: the place does not take it.
        """
        name = f"{self._folder}/seeds-{number:010d}.{shard}-of-{shards}.safetensors"
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            if self._local:
                write(Path(name))
                return Path(name).stat().st_size
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "shard.safetensors"
                write(file)
                self._files.put_file(str(file), name)
                return file.stat().st_size
        except OSError as error:
            raise UnavailableError(f"a shard cannot be written: {error}") from error

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
            except OSError as error:
                raise UnavailableError(f"a checkpoint cannot be read: {error}") from error
            else:
                return kept
        return None

    def _read(self, kept: Kept, read: Callable[[Path], None]) -> None:
        if self._local:
            read(Path(kept.path))
            return
        with tempfile.TemporaryDirectory() as folder:
            for path in (*self._shards(kept), kept.path):
                file = Path(folder) / path.rpartition("/")[2]
                self._files.get_file(path, str(file))
            read(file)


def _number(claim: str) -> int:
    first = claim.partition(" ")[0]
    return int(first) if first.isdecimal() else 0


class BrokenError(InvalidError):
    """A file that is no whole checkpoint."""

    def __init__(self, told: str) -> None:
        super().__init__("checkpoint", told)
