"""Background processes known by a file: started once, found again, ended by their process id.

A process id alone may have passed to somebody else, so the file also holds the process's start
time; only a process that matches both is ours, and only such a process is ever signalled.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.progress import progress

POLL = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """One program to keep running.

    Attributes:
        name: Names the files `NAME.pid` and `NAME.log`.
        argv: The command line, the program first.
        ready: Answers whether it serves; asked until true.
        env: Variables beside the present environment.
        grace: Seconds between SIGTERM and SIGKILL when it is ended.
        tied: Let the kernel end it when the process that started it dies (Linux).
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], bool] = lambda: True
    env: Mapping[str, str] = field(default_factory=dict)
    grace: float = 10.0
    tied: bool = False


def start(process: Process, folder: Path) -> bool:
    """Start `process` unless it already runs with the same command line.

    Returns:
        Whether it had to be started.
    """
    recorded = _read(folder, process.name)
    if recorded and _alive(recorded) and recorded.argv == list(process.argv):
        return False
    stop(process.name, folder, process.grace)
    argv = list(process.argv)
    if process.tied and (setpriv := shutil.which("setpriv")):
        argv = [setpriv, "--pdeathsig", "KILL", *argv]
    with (folder / f"{process.name}.log").open("ab") as log:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **process.env},
            start_new_session=True,
        )
    record = {"pid": child.pid, "started": _started(child.pid), "argv": list(process.argv)}
    (folder / f"{process.name}.pid").write_text(json.dumps(record))
    # The process outlives this object by intent; it is found again by its file.
    child.returncode = 0
    return True


def wait_ready(process: Process, folder: Path, timeout: float = 60.0) -> None:
    """Wait until `process` serves.

    Raises:
        ClusterError: It ended, or did not serve in time; the end of its log is in the message.
    """
    deadline = time.monotonic() + timeout
    with progress(f"waiting for {process.name}"):
        while not process.ready():
            if not is_running(process.name, folder):
                raise ClusterError(f"{process.name} ended:\n{tail(process.name, folder)}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{process.name} is not ready after {timeout:.0f} s:\n"
                    f"{tail(process.name, folder)}"
                )
            time.sleep(POLL)


def wait_until(what: str, holds: Callable[[], bool], timeout: float = 60.0) -> None:
    """Wait until a condition holds.

    Raises:
        ClusterError: It did not in time.
    """
    deadline = time.monotonic() + timeout
    with progress(f"waiting for {what}"):
        while not holds():
            if time.monotonic() > deadline:
                raise ClusterError(f"{what}: not there after {timeout:.0f} s")
            time.sleep(POLL)


def is_running(name: str, folder: Path) -> bool:
    """Whether the process that was started under this name is alive."""
    recorded = _read(folder, name)
    return recorded is not None and _alive(recorded)


def pid(name: str, folder: Path) -> int:
    """The process id of a running process.

    Raises:
        ClusterError: It does not run.
    """
    recorded = _read(folder, name)
    if recorded is None or not _alive(recorded):
        raise ClusterError(f"{name} does not run")
    return recorded.pid


def stop(name: str, folder: Path, grace: float = 10.0) -> None:
    """End the process, gently first, and forget it."""
    recorded = _read(folder, name)
    if recorded is not None:
        _end(recorded, grace)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def tail(name: str, folder: Path, lines: int = 15) -> str:
    """The end of a process's log."""
    log = folder / f"{name}.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def started_here(folder: Path) -> list[str]:
    """Names of the processes that this folder knows, in the order of their start."""
    files = sorted(folder.glob("*.pid"), key=lambda p: p.stat().st_mtime_ns)
    return [p.stem for p in files]


@dataclass(frozen=True, slots=True)
class _Recorded:
    pid: int
    started: str
    argv: list[str]


def _read(folder: Path, name: str) -> _Recorded | None:
    file = folder / f"{name}.pid"
    try:
        return _Recorded(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _end(recorded: _Recorded, grace: float) -> None:
    for signum, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        if not _alive(recorded):
            return
        os.kill(recorded.pid, signum)
        deadline = time.monotonic() + wait
        while _alive(recorded) and time.monotonic() < deadline:
            time.sleep(0.02)


def _alive(recorded: _Recorded) -> bool:
    return _started(recorded.pid) == recorded.started


def _started(pid: int) -> str:
    """When the process began, in any form that differs between two holders of one id."""
    _reap(pid)
    try:
        # The command's name may hold spaces and parentheses; what follows the last one does not.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return _started_by_ps(pid)
    state, start_ticks = fields[0], fields[19]
    return "" if state in "ZX" else start_ticks


def _started_by_ps(pid: int) -> str:
    if Path("/proc/self/stat").exists() or shutil.which("ps") is None:
        return ""
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def _reap(pid: int) -> None:
    """Collect the exit status when the process was a child of this one."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
