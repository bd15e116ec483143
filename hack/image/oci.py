"""OCI images as archives, made without any registry or image tool.

A layer is an uncompressed tar file in a folder of blobs, named by its SHA-256. An image is a
config, a manifest and layers; an archive is a tar of an OCI layout that holds one or more
images, as `ctr images import`, `kind load image-archive` and `skopeo` read it. The same input
gives the same bytes: names are sorted, times and owners are fixed.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEX = "application/vnd.oci.image.index.v1+json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        digest: `sha256:` and the hash of its tar; as it is not compressed, also its diff id.
        size: Bytes.
        path: The tar file.
    """

    digest: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Image:
    """One image.

    Attributes:
        reference: Its name with a tag, such as `seedbed.local/seedbed:dev`.
        layers: From the bottom to the top.
        settings: The config's `config`: User, Env, Entrypoint and the like.
    """

    reference: str
    layers: Sequence[Layer]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> bytes:
        """The image's config, as it is hashed."""
        return _json(
            {
                "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
                "os": "linux",
                "config": dict(self.settings),
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self.layers]},
            }
        )

    def manifest(self) -> bytes:
        """The image's manifest, as it is hashed."""
        config = self.config()
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor(CONFIG, config),
                "layers": [
                    {"mediaType": LAYER, "digest": layer.digest, "size": layer.size}
                    for layer in self.layers
                ],
            }
        )


def digest_of(content: bytes) -> str:
    """The OCI digest of some bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def layer_from_tree(
    tree: Path, blobs: Path, *, prefix: str = "", owner: tuple[int, int] = (0, 0)
) -> Layer:
    """A layer with everything below the folder `tree`.

    Args:
        tree: The folder.
        blobs: The folder of blobs, where the layer is put.
        prefix: Where `tree` comes to lie in the image, without a slash at either end.
        owner: User and group id of everything in it.
    """

    def write(archive: tarfile.TarFile) -> None:
        made = ""
        for part in prefix.split("/") if prefix else ():
            made = f"{made}/{part}".lstrip("/")
            archive.addfile(_folder(made, owner))
        for path in sorted(tree.rglob("*")):
            name = "/".join([prefix, str(path.relative_to(tree))]).lstrip("/")
            _add(archive, path, name, owner)

    return _layer(blobs, write)


def layer_from_files(
    files: Mapping[str, bytes | Path],
    blobs: Path,
    *,
    folders: Sequence[tuple[str, int, tuple[int, int]]] = (),
) -> Layer:
    """A layer with single executable files and empty folders.

    Args:
        files: Name in the image, without a leading slash, to content or the file that holds it.
        blobs: The folder of blobs, where the layer is put.
        folders: Name, mode and owner of folders to make; parents first.
    """

    def write(archive: tarfile.TarFile) -> None:
        made: set[str] = set()
        for name, mode, owner in folders:
            made.add(name)
            archive.addfile(_folder(name, owner, mode))
        for name, content in sorted(files.items()):
            for parent in reversed(Path(name).parents[:-1]):
                if str(parent) not in made:
                    made.add(str(parent))
                    archive.addfile(_folder(str(parent), (0, 0)))
            data = content if isinstance(content, bytes) else content.read_bytes()
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(data)
            archive.addfile(info, io.BytesIO(data))

    return _layer(blobs, write)


def layer_from_tar(source: Path, blobs: Path) -> Layer:
    """A layer that is a tar file already; the file is copied."""
    with source.open("rb") as file:
        return _store(blobs, lambda out: shutil.copyfileobj(file, out, 1 << 20))


def write_archive(target: Path, images: Sequence[Image]) -> None:
    """Write an OCI archive with these images; layers that they share are in it once."""
    unfinished = target.with_name(target.name + ".new")
    with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as archive:
        _member(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _member(archive, "index.json", _index(images))
        seen: set[str] = set()
        for image in images:
            for content in (image.config(), image.manifest()):
                if (digest := digest_of(content)) not in seen:
                    seen.add(digest)
                    _member(archive, _blob_name(digest), content)
            for layer in image.layers:
                if layer.digest in seen:
                    continue
                seen.add(layer.digest)
                info = tarfile.TarInfo(_blob_name(layer.digest))
                info.size = layer.size
                with layer.path.open("rb") as file:
                    archive.addfile(info, file)
    unfinished.replace(target)


def copy_archive(source: Path, target: IO[bytes], skip: Collection[str] = ()) -> None:
    """Copy an archive, leaving out the blobs whose digests are in `skip`.

    A store that has those blobs already accepts the rest, and the copy takes no time.
    """
    absent = {_blob_name(digest) for digest in skip}
    with (
        tarfile.open(source, "r:") as archive,
        tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT) as copy,
    ):
        for member in archive:
            if member.name not in absent:
                copy.addfile(member, archive.extractfile(member))


def references(source: Path) -> list[str]:
    """The names of the images in an archive."""
    with tarfile.open(source, "r:") as archive:
        file = archive.extractfile("index.json")
        assert file is not None
        index = json.load(file)
    return [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]


def _index(images: Sequence[Image]) -> bytes:
    manifests = [
        {
            **_descriptor(MANIFEST, image.manifest()),
            "annotations": {
                "io.containerd.image.name": image.reference,
                "org.opencontainers.image.ref.name": image.reference,
            },
        }
        for image in images
    ]
    return _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _folder(name: str, owner: tuple[int, int], mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    info.uid, info.gid = owner
    return info


def _add(archive: tarfile.TarFile, path: Path, name: str, owner: tuple[int, int]) -> None:
    info = archive.gettarinfo(path, name)
    info.mtime, info.uname, info.gname = 0, "", ""
    info.uid, info.gid = owner
    # What anybody may read does not depend on the umask of who built it.
    info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
    if info.isreg():
        with path.open("rb") as file:
            archive.addfile(info, file)
    else:
        archive.addfile(info)


def _layer(blobs: Path, write: Any) -> Layer:
    def stream(out: IO[bytes]) -> None:
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            write(archive)

    return _store(blobs, stream)


class _Hashing(io.RawIOBase):
    """A writer that hashes and counts what passes."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out, self.hash, self.size = out, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.out.write(data)


def _store(blobs: Path, stream: Any) -> Layer:
    blobs.mkdir(parents=True, exist_ok=True)
    unfinished = blobs / f".{os.getpid()}.new"
    with unfinished.open("wb") as file:
        hashing = _Hashing(file)
        stream(hashing)
    digest = hashing.hash.hexdigest()
    unfinished.replace(blobs / digest)
    return Layer(f"sha256:{digest}", hashing.size, blobs / digest)
