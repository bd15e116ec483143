"""`make demo-cluster`: the quickstart on a real cluster, by Helm and kubectl.

Brings a cluster up (or finds one), brings the images into it, installs the chart, applies the
examples, waits for the Workflow and shows objects and result. Every step says what it does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from hack.cluster import ClusterError, binaries, cluster
from hack.cluster.modes import Mode
from hack.cluster.progress import progress, say
from hack.image import images, oci

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "seedbed"
VALUES = ROOT / "hack" / "cluster" / "values-local.yaml"
EXAMPLES = ROOT / "examples" / "quickstart"
SYSTEM = "seedbed-system"
WORKFLOW = "licence-audit"


def environment(name: str) -> dict[str, str]:
    """Variables under which kubectl and helm reach the cluster."""
    kubeconfig, folders = cluster.environment(name)
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    return {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": path}


def install(env: dict[str, str], digest: str, timeout: str = "4m", *, image: str = "") -> None:
    """Install or upgrade the chart and wait until everything in it is ready.

    Args:
        env: see `environment`.
        digest: of the image that was brought in, which makes a new one roll out; empty where the
            chart's own images are pulled.
        timeout: how long helm waits.
        image: repository that the cluster pulls from; empty for the chart's own.
    """
    command = ["helm", "upgrade", "--install", "seedbed", str(CHART), "--namespace", SYSTEM]
    wait = ["--create-namespace", "--wait", "--timeout", timeout]
    local = ["--values", str(VALUES), "--set", f"image.digest={digest}"] if digest else []
    pulled = ["--set", f"image.repository={image}"] if image else []
    subprocess.run(
        [*command, *wait, *local, *pulled], env=env, check=True, stdout=subprocess.DEVNULL
    )


def bring_images(name: str) -> str:
    """Build the images that have changed and bring them in; returns the product's digest."""
    digest = ""
    for image_name in images.IMAGES:
        image, archive = images.build(image_name, "dev")
        cluster.load_images(name, [archive])
        if image_name == "seedbed":
            digest = oci.digest_of(image.manifest())
    return digest


def run(name: str, mode: Mode | None, kubeconfig: Path | None, image: str) -> int:
    """The whole demonstration; returns the exit status of the Workflow."""
    began = time.monotonic()
    cluster.up(name, mode, kubeconfig)
    binaries.ensure(["kubectl", "helm"])
    digest = "" if mode is Mode.EXISTING else bring_images(name)
    env = environment(name)
    with progress("installing the chart"):
        install(env, digest, image=image)
    say("applying examples/quickstart")
    subprocess.run(["kubectl", "apply", "-f", str(EXAMPLES)], env=env, check=True)
    seedbed = str(Path(sys.executable).parent / "seedbed")
    watched = subprocess.run([seedbed, "watch", WORKFLOW], env=env, check=False).returncode
    subprocess.run(["kubectl", "get", "seedbed", "-A"], env=env, check=False)
    shown = subprocess.run([seedbed, "result", WORKFLOW], env=env, check=False).returncode
    say(f"done after {time.monotonic() - began:.0f} s. Next, try:")
    print(f'  eval "$(python -m hack.cluster env --name {name})"')
    print(f"  kubectl describe sbworkflow {WORKFLOW}")
    print(f"  seedbed logs {WORKFLOW}")
    return watched or shown


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dev")
    parser.add_argument("--mode", type=Mode, choices=list(Mode))
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--image", default="", help="repository, for --mode existing")
    options = parser.parse_args()
    try:
        return run(options.name, options.mode, options.kubeconfig, options.image)
    except (ClusterError, subprocess.CalledProcessError) as error:
        say(f"error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
