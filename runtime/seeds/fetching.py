"""Files that a spec names, on this machine or wherever fsspec reaches, and what can go wrong with one.

    there is none, it is a folder, access is refused, no such kind of place    InvalidError
    no answer, or none in time                                                 SourceAwayError

Both name the field of the spec and the address, without what is secret in it. Packages behind fsspec have
errors of their own, which share no root: they are told apart by what they are and by their names.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.telemetry.logs import redacted

_AWAY = re.compile(r"Timeout|Connect|Throttl|Payload|HTTPClient|IncompleteRead")
_REFUSED = re.compile(r"Credential|Unauthori[sz]ed|Forbidden|AccessDenied|Token|SSO")
_USER = re.compile(r"://[^/@\s]*@")
_QUERY = re.compile(r"(\w://[^\s?#'\"]*)[?#][^\s'\"]*")
_SERVER_ERROR = 500
_FORBIDDEN = (401, 403)
_ENDING = re.compile(r"\.[a-z0-9]{1,16}")


class SourceAwayError(UnavailableError):
    """A file of the spec cannot be had for now.

    Attributes:
        field: of the spec.
        address: without secrets.
    """

    code = "source_unavailable"

    def __init__(self, field: str, address: str, told: str) -> None:
        super().__init__(f"{field}: {address} does not answer: {told}")
        self.field, self.address = field, address


def address(url: str) -> str:
    """A URL without users, passwords and signatures."""
    return _QUERY.sub(r"\1", _USER.sub("://", url))


def told(error: BaseException, url: str = "") -> str:
    """What an error says, in one line and without the secrets of the URL."""
    text = " ".join(str(error).split()) or type(error).__name__
    if user := _USER.search(url):
        text = text.replace(user[0].removeprefix("://"), "")
    return f"{redacted(address(text)):.300}"


def fault(error: Exception, field: str, url: str) -> SeedbedError:
    """The one error for whatever a place raised."""
    where, said = address(url), told(error, url)
    name, status = type(error).__name__, getattr(error, "status", None)
    if isinstance(error, SeedbedError):
        return error
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        said = "" if said.endswith(where.partition("://")[2]) else f": {said}"
        return InvalidError(field, f"expected a file at {where}, and there is none{said}")
    if isinstance(error, IsADirectoryError):
        return InvalidError(field, f"expected a file at {where}, and that is a folder")
    if isinstance(error, PermissionError) or status in _FORBIDDEN or _REFUSED.search(name):
        return InvalidError(field, f"expected a file at {where}, and access is refused: {said}")
    if isinstance(error, ImportError | ValueError):
        return InvalidError(field, f"{where} is no address that this image can read: {said}")
    away = isinstance(status, int) and status >= _SERVER_ERROR
    if away or isinstance(error, OSError) or _AWAY.search(name):
        return SourceAwayError(field, where, said)
    return InvalidError(field, f"{where} cannot be read: {name}: {said}")


@contextmanager
def local_copy(url: str, field: str) -> Iterator[Path]:
    """A file as one of this machine, with its ending, while the context is open.

    Raises:
        InvalidError: there is none that may be read.
        SourceAwayError: it does not come.
    """
    if "://" not in url:
        yield _own(Path(url), field)
        return
    with tempfile.TemporaryDirectory() as folder:
        ending = PurePosixPath(address(url)).suffix
        target = Path(folder) / f"file{ending if _ENDING.fullmatch(ending) else ''}"
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
            filesystem.get_file(path, str(target))
            if not target.is_file():
                raise IsADirectoryError(path)
        except Exception as error:  # see above: every package has its own
            raise fault(error, field, url) from error
        yield target


def _own(path: Path, field: str) -> Path:
    try:
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:
        raise fault(error, field, str(path)) from error


def read_tensors(path: Path, field: str, url: str, hint: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: of it.
        field: of the spec.
        url: as the spec says it.
        hint: what else could have been meant, for the error.

    Raises:
        InvalidError: it is none, or not whole.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        what = "a pickle, which is never loaded" if is_pickle(path) else told(error, url)
        raise InvalidError(
            field, f"expected a whole safetensors file at {address(url)}, and found {what}{hint}"
        ) from error


def is_pickle(path: Path) -> bool:
    """Whether a file looks like a pickle, alone or in an archive as torch writes it."""
    try:
        with path.open("rb") as file:
            begins = file.read(2)
        if begins[:1] == b"\x80" and begins[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return True
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
