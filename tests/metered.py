"""A process that serves a Prometheus page: what it counts, and what it costs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers import tied


class Metered:
    """A process under observation; its page is at `/metrics` of a port of 127.0.0.1.

    Args:
        argv: the command line.
        environment: variables beside those of this process.
        port: where it serves its page.
        log: file that takes its output, behind what is there.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], port: int, log: Path
    ) -> None:
        self._page = f"http://127.0.0.1:{port}/metrics"
        self._log = log
        self.started = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*tied(), *argv], env={**os.environ, **environment}, stdout=output, stderr=output
            )

    def metrics(self) -> dict[str, float]:
        """Every sample of its page by name with labels; empty while it does not serve yet."""
        try:
            with urllib.request.urlopen(self._page, timeout=5) as page:
                text = page.read().decode()
        except OSError:
            assert self._process.poll() is None, self.log()
            return {}
        found = (line.rpartition(" ") for line in text.splitlines() if line[:1] not in ("#", ""))
        return {name: float(value) for name, _, value in found}

    def total(self, name: str, label: str = "") -> float:
        """The sum of a metric over the label sets that hold `label`, a regular expression."""
        return sum(
            value
            for found, value in self.metrics().items()
            if (found == name or found.startswith(f"{name}{{")) and re.search(label, found)
        )

    def log(self) -> str:
        """The end of its output."""
        return self._log.read_text()[-4000:]

    def cpu_seconds(self) -> float:
        """What it has used of the processors, in user and in system mode."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def ended(self, within: float) -> int:
        """Wait for its end; gives its exit code."""
        return self._process.wait(within)

    def end(self, within: float = 20.0) -> None:
        """End it in good order, or else at once."""
        self._process.terminate()
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, also where it is stopped."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
