"""Images are the same bytes for the same input, and archives can leave out what is known."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from hack.cluster.errors import ClusterError
from hack.image import oci
from hack.image.layers import lock_subset, scripts


def make_tree(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "run").write_text("#!/bin/sh\n")
    (folder / "bin" / "run").chmod(0o700)
    (folder / "data.txt").write_text("data")
    (folder / "data.txt").chmod(0o600)
    (folder / "link").symlink_to("data.txt")
    return folder


def test_the_same_tree_gives_the_same_layer(tmp_path: Path) -> None:
    first = oci.layer_from_tree(make_tree(tmp_path / "a"), tmp_path / "blobs", prefix="opt/x")
    second = oci.layer_from_tree(make_tree(tmp_path / "b"), tmp_path / "blobs", prefix="opt/x")
    assert first == second
    assert first.digest == oci.digest_of(first.path.read_bytes())
    assert first.size == first.path.stat().st_size


def test_a_layer_is_readable_by_anybody_and_owned_by_root(tmp_path: Path) -> None:
    layer = oci.layer_from_tree(make_tree(tmp_path / "a"), tmp_path / "blobs", prefix="opt/x")
    with tarfile.open(layer.path) as archive:
        modes = {member.name: member.mode for member in archive if member.isreg()}
        owners = {(member.uid, member.gid, member.mtime) for member in archive}
    assert modes == {"opt/x/bin/run": 0o755, "opt/x/data.txt": 0o644}
    assert owners == {(0, 0, 0)}


def test_parents_come_before_files(tmp_path: Path) -> None:
    folder = ("var/data", 0o700, (5, 6))
    layer = oci.layer_from_files({"usr/bin/x": b"x"}, tmp_path, folders=[folder])
    with tarfile.open(layer.path) as archive:
        assert archive.getnames() == ["var/data", "usr", "usr/bin", "usr/bin/x"]
        assert (archive.getmember("var/data").uid, archive.getmember("var/data").gid) == (5, 6)


def test_an_archive_describes_its_images(tmp_path: Path) -> None:
    layer = oci.layer_from_files({"x": b"x"}, tmp_path)
    images = [oci.Image("a.local/x:1", [layer], {"User": "1"}), oci.Image("a.local/y:1", [layer])]
    oci.write_archive(tmp_path / "i.tar", images)
    assert oci.references(tmp_path / "i.tar") == ["a.local/x:1", "a.local/y:1"]
    with tarfile.open(tmp_path / "i.tar") as archive:
        names = archive.getnames()
        assert len(names) == len(set(names))
        for name in names:
            if name.startswith("blobs/"):
                member = archive.extractfile(name)
                assert member is not None
                assert oci.digest_of(member.read()) == name.removeprefix("blobs/").replace("/", ":")
    config = json.loads(images[0].config())
    assert config["rootfs"]["diff_ids"] == [layer.digest]
    assert config["config"] == {"User": "1"}


def test_a_copy_leaves_out_known_blobs_and_nothing_else(tmp_path: Path) -> None:
    layers = [oci.layer_from_files({name: b"x" * 9999}, tmp_path) for name in ("a", "b")]
    oci.write_archive(tmp_path / "i.tar", [oci.Image("a.local/x:1", layers)])
    copy = io.BytesIO()
    oci.copy_archive(tmp_path / "i.tar", copy, {layers[0].digest})
    copy.seek(0)
    with tarfile.open(tmp_path / "i.tar") as whole, tarfile.open(fileobj=copy) as thin:
        left_out = set(whole.getnames()) - set(thin.getnames())
    assert left_out == {"blobs/" + layers[0].digest.replace(":", "/")}


LOCK = """\
# a comment
alpha==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via beta
beta==2.0 ; sys_platform == 'linux' \\
    --hash=sha256:cc
"""


def test_a_subset_of_a_lock_keeps_the_hashes() -> None:
    expected = "alpha==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    assert lock_subset(LOCK, ["alpha"]) == expected
    with pytest.raises(ClusterError, match="gamma"):
        lock_subset(LOCK, ["beta", "gamma"])


def test_commands_are_made_from_entry_points() -> None:
    made = scripts("[console_scripts]\nseedbed = seedbed.cli.main:app\n\n[other]\nx = y\n")
    assert list(made) == ["seedbed"]
    assert "from seedbed.cli.main import app" in made["seedbed"]
    compile(made["seedbed"], "seedbed", "exec")
