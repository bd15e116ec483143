"""Keys, encryption and deltas of checkpoints, and which of them may be removed."""

from __future__ import annotations

import base64
import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.runtime.store.checkpoints import CheckpointRow
from seedbed.runtime.workflow.checkpoint.codec import Label, seal, unseal
from seedbed.runtime.workflow.checkpoint.keys import DamagedError, KeyLostError, KeyRing, new_line
from seedbed.runtime.workflow.checkpoint.vault import dispensable

FULL, DELTA = Label("run-1", 1), Label("run-1", 2, base=1)


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    return KeyRing.at(tmp_path / "keys")


def test_a_key_ring_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first = KeyRing.at(path).newest
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyRing.at(path).newest == first


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no key"),
        ("# only a comment\n\n", "no key"),
        ("one", "line 1"),
        ("\none: c2hvcnQ=", "line 2"),
        (f"one: {'*' * 44}", "line 1"),
        (": " + base64.b64encode(bytes(32)).decode(), "line 1"),
        (f"one: {base64.b64encode(bytes(32)).decode()}\ntwo three: {'*' * 44}", "line 2"),
    ],
)
def test_a_wrong_line_is_named_and_no_key_is_told(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(InvalidError, match=named) as refused:
        _ = KeyRing(path).newest
    for line in text.splitlines():
        secret = line.partition(":")[2].strip()
        assert not secret or secret not in refused.value.message


@pytest.mark.req("COG-3.1.3")
def test_what_is_stored_is_unreadable_without_the_key(keys: KeyRing, tmp_path: Path) -> None:
    content = b'{"records": "the quick brown fox, 4711 times over"}' * 20
    sealed = seal(content, None, FULL, keys)
    assert len(sealed.data) < len(content) / 4
    assert b"fox" not in sealed.data
    assert unseal(sealed, None, FULL, keys) == content
    with pytest.raises(KeyLostError) as lost:
        unseal(sealed, None, FULL, KeyRing.at(tmp_path / "others"))
    assert lost.value.key == sealed.key
    # The right id with another key behind it.
    forged = tmp_path / "forged"
    forged.write_text(f"{sealed.key}: {base64.b64encode(os.urandom(32)).decode()}\n")
    with pytest.raises(DamagedError, match="does not decrypt"):
        unseal(sealed, None, FULL, KeyRing(forged))


def test_a_new_key_encrypts_and_older_ones_still_decrypt(keys: KeyRing, tmp_path: Path) -> None:
    before = seal(b"before" * 9, None, FULL, keys)
    with (tmp_path / "keys").open("a") as ring:
        ring.write(new_line())
    after = seal(b"after" * 9, None, FULL, keys)
    assert after.key == keys.newest != before.key
    assert unseal(before, None, FULL, keys) == b"before" * 9
    assert unseal(after, None, FULL, keys) == b"after" * 9


def test_the_last_line_is_the_newest_key_also_where_it_stands_above_too(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old, new = new_line(0.0), new_line(1.0)
    path.write_text(old + new + old)
    assert KeyRing(path).newest == old.partition(":")[0]


@pytest.mark.parametrize("text", [None, "", "half a li"])
def test_a_ring_that_could_be_read_before_is_waited_for(
    keys: KeyRing, tmp_path: Path, text: str | None
) -> None:
    sealed = seal(b"content", None, FULL, keys)
    path = tmp_path / "keys"
    before = path.read_text()
    path.unlink()
    if text is not None:
        path.write_text(text)
    # No fork may end as failed because somebody mends the Secret right now.
    with pytest.raises(UnavailableError):
        unseal(sealed, None, FULL, keys)
    with pytest.raises(InvalidError):
        _ = KeyRing(path).newest
    path.write_text(before)
    assert unseal(sealed, None, FULL, keys) == b"content"


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=8, max_size=4000), st.binary(max_size=300), st.integers(0, 4000))
def test_a_delta_gives_its_content_back(old: bytes, inserted: bytes, at: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(KeyRing, "_read", lambda _: {"one": bytes(32)})
        keys = KeyRing(Path("unused"))
        new = old[:at] + inserted + old[at:]
        sealed = seal(new, old, DELTA, keys)
        assert unseal(sealed, old, DELTA, keys) == new


def test_a_delta_is_small_where_little_changed(keys: KeyRing) -> None:
    old = os.urandom(2_000_000)
    new = old[:1_000_000] + b"changed" + old[1_000_000:]
    assert len(seal(new, old, DELTA, keys).data) < len(seal(new, None, FULL, keys).data) / 500


def test_damage_is_told_wherever_it_is(keys: KeyRing) -> None:
    base = b"base content " * 50
    sealed = seal(base + b"more", base, DELTA, keys)
    for at in (0, 12, len(sealed.data) // 2, len(sealed.data) - 1):
        flipped = bytearray(sealed.data)
        flipped[at] ^= 1
        with pytest.raises(DamagedError, match="checkpoint 2 of run-1"):
            unseal(dataclasses.replace(sealed, data=bytes(flipped)), base, DELTA, keys)
    with pytest.raises(DamagedError):
        unseal(sealed, b"another base " * 50, DELTA, keys)
    for other in (Label("run-2", 2, 1), Label("run-1", 3, 1), Label("run-1", 2, 0)):
        with pytest.raises(DamagedError):
            unseal(sealed, base, other, keys)


def row(number: int, base: int = 0, expires: float = 100.0) -> CheckpointRow:
    return CheckpointRow(
        run="r",
        number=number,
        id=str(number),
        partition=0,
        created_at=float(number),
        expires_at=expires,
        cause="interval",
        revision=0,
        ended=0,
        total=0,
        base=base,
        depth=0,
        content_bytes=1,
        size_bytes=1,
        compression_ratio=1.0,
        key="k",
        digest="d",
    )


@pytest.mark.req("COG-3.1.3")
def test_a_base_stays_as_long_as_what_builds_on_it() -> None:
    rows = [row(1, expires=5), row(2, 1, 6), row(3, 2, 20), row(4, expires=6), row(5, expires=30)]
    assert [one.number for one in dispensable(rows, now=10)] == [4]
    assert [one.number for one in dispensable(rows, now=25)] == [1, 2, 3, 4]
    assert dispensable(rows, now=0) == []
    assert [one.number for one in dispensable(rows, now=0, most=1)] == [1, 2, 3, 4]
    assert [one.number for one in dispensable(rows, now=0, most=3)] == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=12),
    st.integers(0, 9),
    st.integers(1, 12),
)
def test_whatever_is_removed_what_stays_can_be_read(
    made: list[tuple[bool, int]], now: int, most: int
) -> None:
    rows = [row(at, 0 if full else at - 1, end) for at, (full, end) in enumerate(made, start=1)]
    gone = {one.number for one in dispensable(rows, now, most)}
    staying = {one.number for one in rows} - gone
    assert all(one.base in staying for one in rows if one.number in staying and one.base)
    living = [one.number for one in rows if one.expires_at > now][-most:]
    assert set(living) <= staying
