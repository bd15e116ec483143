"""Starts the processes of a pod that trains with others: torchrun's elastic launch.

The pods meet at the first one. Where a process is lost, those of all pods are ended and started anew with
whoever is there, and go on from the newest checkpoint; the same happens when a pod comes. Ranks follow the
pods' names, so the first process of the first pod leads.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousHandler,
    RendezvousParameters,
)
from torch.distributed.elastic.rendezvous import registry as meetings

from seedbed.crds.errors import UnavailableError

RESTARTS = 100
"""Times that a pod starts its processes anew; afterwards Kubernetes starts the pod's container anew."""
LAST_CALL = 5
"""Seconds that those who have met wait for more."""
MOST_PODS = 1000
_MEETING_SECONDS = 900
_CALL_SECONDS = 15
"""Seconds of one try to reach the first pod; meanwhile a signal has to wait."""
_STOP_SECONDS = 10
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """What a pod has to know of its group.

    Attributes:
        name: of the group; the same in all pods.
        rendezvous: host and port of the first pod, where all meet.
        address: by which the others find this pod.
        processes: how many this pod starts.
        least: pods without which nothing begins.
        drain: seconds that the processes have to save their state when the pod ends.
    """

    name: str
    rendezvous: str
    address: str
    processes: int = 1
    least: int = 1
    drain: float = 110.0


class _Agent(LocalElasticAgent):
    """One that leaves its processes the time to save when the pod ends."""

    drain = 30.0
    _ending = False

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM) -> None:
        if self._pcontext:
            seconds = self.drain if self._ending else _STOP_SECONDS
            self._pcontext.close(death_sig, timeout=int(seconds))

    def run(self, role: str = "seeds") -> RunResult:
        """Until the processes are done, or the pod is told to end."""
        try:
            return self._invoke_run(role)
        except SignalException as told:
            self._ending = True
            self._shutdown(told.sigval)
            raise
        finally:
            if not self._ending:
                self._shutdown()


def launch(wanted: Launch, command: Sequence[str]) -> int:
    """Run the processes until the pod is told to end; gives the exit status.

    Args:
        wanted: see Launch.
        command: of each process; torchrun's variables say which one it is.

    Raises:
        UnavailableError: the pods do not meet.
    """
    if wanted.processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT"
    # a store that outlives a restart still holds the addresses of processes that have gone
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    is_first = wanted.rendezvous.rpartition(":")[0] == wanted.address
    meeting = RendezvousParameters(
        "c10d", wanted.rendezvous, wanted.name, wanted.least, MOST_PODS, wanted.address,
        join_timeout=_MEETING_SECONDS, last_call_timeout=LAST_CALL, read_timeout=_CALL_SECONDS,
        is_host=is_first,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _told_to_end)
    try:
        spec = WorkerSpec(
            role="seeds",
            local_world_size=wanted.processes,
            entrypoint=command[0],
            args=tuple(command[1:]),
            rdzv_handler=_met(meeting),
            max_restarts=RESTARTS,
            monitor_interval=0.2,
            local_addr=wanted.address,
        )
        agent = _Agent(spec, DefaultLogsSpecs())
        agent.drain = wanted.drain
        result = agent.run()
    except SignalException:
        return 0
    except (RendezvousError, RuntimeError, OSError) as error:
        raise UnavailableError(f"the pods of the group do not meet: {error}") from error
    return 1 if result.is_failed() else 0


def _told_to_end(number: int, _: object) -> None:
    """Torchrun's own handler comes with its processes, and the first process of a container has no other."""
    raise SignalException("the pod is told to end", signal.Signals(number))


def _met(meeting: RendezvousParameters) -> RendezvousHandler:
    """Where the pods meet, as soon as the first one is there."""
    end = time.monotonic() + _MEETING_SECONDS
    while True:
        try:
            return meetings.get_rendezvous_handler(meeting)
        except RendezvousConnectionError as error:
            if time.monotonic() > end:
                raise
            told = str(error.__cause__ or error).partition("\n")[0]
            _log.warning("the first pod of the group is not there yet: %s", told)
        time.sleep(1.0)


def this_command() -> list[str]:
    """The command of this process, to be run again as one of a group."""
    return [sys.executable, *sys.orig_argv[1:]]
