"""The command `python -m hack.image`; see the package's docstring."""

import argparse
import sys
import time

from hack.cluster import cluster
from hack.cluster.errors import ClusterError
from hack.cluster.progress import say
from hack.image import images, oci


def main(arguments: list[str] | None = None) -> int:
    """Build images, and load them into a cluster when asked; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.image")
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="build images as archives")
    build.add_argument("--tag", default="dev", help="the images' tag (default: dev)")
    build.add_argument(
        "--only", help="names, separated by commas, instead of all; seedbed-kernels comes only so"
    )
    build.add_argument("--load", metavar="NAME", help="the cluster to load them into")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(images.IMAGES)
    known = {**images.IMAGES, **images.ON_REQUEST}
    if unknown := [name for name in names if name not in known]:
        say(f"error: no image named {unknown[0]}; there are {', '.join(known)}")
        return 2
    start = time.monotonic()
    try:
        for name in names:
            image, archive = images.build(name, options.tag)
            print(f"{image.reference} {oci.digest_of(image.manifest())} {archive}")
            if options.load:
                cluster.load_images(options.load, [archive])
    except ClusterError as error:
        say(f"error: {error}")
        return 1
    say(f"done in {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
