"""The project's images: Seedbed itself, and the three servers that the chart brings along.

All run as user 65532 on a read-only root; each says below what it needs to write to.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hack.cluster.state import locked
from hack.image import layers, oci

REGISTRY = "seedbed.local"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def seedbed(tag: str) -> oci.Image:
    """The product: the one image of all its roles. Writes to `/tmp`."""
    parts = [layers.base(), layers.libraries(), layers.product()]
    return oci.Image(f"{REGISTRY}/seedbed:{tag}", parts, _product(layers.LIBRARIES))


def seedbed_kernels(tag: str) -> oci.Image:
    """The product with torch, for the pods of SeedLayers. Writes to `/tmp`."""
    # The large layer lies below the product's, so that a new version is a small one.
    parts = [layers.base(), layers.libraries(), layers.kernels(), layers.product()]
    settings = _product(layers.LIBRARIES, layers.KERNELS)
    return oci.Image(f"{REGISTRY}/seedbed-kernels:{tag}", parts, settings)


def etcd(tag: str) -> oci.Image:
    """Etcd and etcdctl, nothing else. Writes to its data folder."""
    settings = _settings({"PATH": SYSTEM_PATH}, Cmd=["etcd"])
    return oci.Image(f"{REGISTRY}/etcd:{tag}", [layers.programs(["etcd", "etcdctl"])], settings)


def nats(tag: str) -> oci.Image:
    """The NATS server, nothing else. Writes to its store folder."""
    settings = _settings({"PATH": SYSTEM_PATH}, Entrypoint=["nats-server"])
    return oci.Image(f"{REGISTRY}/nats:{tag}", [layers.nats_server()], settings)


def postgres(tag: str) -> oci.Image:
    """PostgreSQL with pgvector. Writes below `/var/lib/postgresql`."""
    programs = f"/{layers.POSTGRES}/{layers.POSTGRES_INSTALL}/bin"
    settings = _settings(
        {"PATH": f"{programs}:{SYSTEM_PATH}", "LANG": "C.UTF-8"},
        Entrypoint=["entrypoint"],
        Cmd=["postgres"],
        # A fast shutdown, which does not wait for clients to leave.
        StopSignal="SIGINT",
    )
    parts = [layers.base(), layers.postgres(), layers.postgres_entrypoint()]
    return oci.Image(f"{REGISTRY}/postgres:{tag}", parts, settings)


IMAGES: Mapping[str, Callable[[str], oci.Image]] = {
    "seedbed": seedbed,
    "etcd": etcd,
    "nats": nats,
    "postgres": postgres,
}


ON_REQUEST: Mapping[str, Callable[[str], oci.Image]] = {"seedbed-kernels": seedbed_kernels}
"""Images of gigabytes, built only where somebody names them."""


def build(name: str, tag: str) -> tuple[oci.Image, Path]:
    """Build one image; return it and its archive, which is written only when it changed."""
    folder = layers.images_folder()
    with locked(folder / f".{name}.lock"):
        image = {**IMAGES, **ON_REQUEST}[name](tag)
        digest = oci.digest_of(image.manifest())
        archive, note = folder / f"{name}-{tag}.tar", folder / f"{name}-{tag}.digest"
        if not (archive.exists() and note.exists() and note.read_text() == digest):
            oci.write_archive(archive, [image])
            note.write_text(digest)
    return image, archive


def _product(*libraries: str) -> dict[str, Any]:
    """The settings of the product, with its libraries in these folders."""
    places = (layers.PRODUCT, *libraries)
    return _settings(
        {
            "PATH": f"/{layers.PROGRAMS}:{SYSTEM_PATH}",
            "PYTHONPATH": ":".join(f"/{place}" for place in places),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
        },
        Entrypoint=["seedbed"],
        WorkingDir="/opt/seedbed",
    )


def _settings(environment: Mapping[str, str], **others: Any) -> dict[str, Any]:
    return {
        "User": f"{layers.USER}:{layers.USER}",
        "Env": [f"{name}={value}" for name, value in environment.items()],
        **others,
    }
