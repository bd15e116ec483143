"""The command `python -m hack.cluster`; see the package's docstring."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

from hack.cluster import cluster
from hack.cluster.errors import ClusterError
from hack.cluster.modes import Mode
from hack.cluster.progress import say


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(_COMMANDS[options.command](options))
    except ClusterError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; `python -m hack.cluster down` ends what was started")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.cluster", description="A local Kubernetes for development."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--name", default="dev", help="the cluster's name (default: dev)")
        return sub

    up = command("up", "bring a cluster up, or repair it")
    up.add_argument("--mode", type=Mode, choices=list(Mode), help="instead of choosing")
    up.add_argument("--kubeconfig", type=Path, help="the kubeconfig, with --mode existing")
    command("down", "end a cluster and forget it")
    command("status", "say what runs")
    command("env", "print shell lines that select the cluster")
    load = command("load-image", "bring image archives into the cluster")
    load.add_argument("archives", nargs="+", type=Path, metavar="FILE.tar")
    return parser


def _up(options: argparse.Namespace) -> int:
    start = time.monotonic()
    kubeconfig = options.kubeconfig
    if kubeconfig is None and options.mode is Mode.EXISTING and "KUBECONFIG" in os.environ:
        kubeconfig = Path(os.environ["KUBECONFIG"])
    found = cluster.up(options.name, options.mode, kubeconfig)
    say(f"cluster {options.name} is up after {time.monotonic() - start:.1f} s")
    print(f"export KUBECONFIG={shlex.quote(str(found))}")
    return 0


def _down(options: argparse.Namespace) -> int:
    start = time.monotonic()
    if cluster.down(options.name):
        say(f"cluster {options.name} is down after {time.monotonic() - start:.1f} s")
    else:
        say(f"cluster {options.name} is not up")
    return 0


def _status(options: argparse.Namespace) -> int:
    healthy, lines = cluster.status(options.name)
    print("\n".join(lines))
    return 0 if healthy else 1


def _env(options: argparse.Namespace) -> int:
    kubeconfig, folders = cluster.environment(options.name)
    print(f"export KUBECONFIG={shlex.quote(str(kubeconfig))}")
    if folders:
        joined = ":".join(shlex.quote(str(folder)) for folder in folders)
        print(f'export PATH={joined}:"$PATH"')
    return 0


def _load_image(options: argparse.Namespace) -> int:
    cluster.load_images(options.name, options.archives)
    return 0


_COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "env": _env,
    "load-image": _load_image,
}

if __name__ == "__main__":
    sys.exit(main())
