"""The operator's cache: newer versions win, children find owners, references find dependents."""

from __future__ import annotations

from typing import Any

from seedbed.controllers.plan import Key
from seedbed.operator.cache import Cache

POOL = Key("Pool", "default", "general")
AGENT = Key("Agent", "default", "reader")


def obj(kind: str, name: str, version: int, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
    }
    return {"kind": kind, "metadata": metadata | more.pop("metadata", {}), **more}


def pool(version: int = 1) -> dict[str, Any]:
    return obj("Pool", "general", version, spec={})


def agent(version: int = 1) -> dict[str, Any]:
    return obj(
        "Agent", "reader", version, spec={"pool": {"name": "general"}, "signature": "a -> b"}
    )


def deployment(version: int = 1) -> dict[str, Any]:
    owner = {"kind": "Pool", "name": "general", "uid": "uid-general", "controller": True}
    return obj("Deployment", "workers", version, metadata={"ownerReferences": [owner]})


def test_the_same_or_an_older_version_is_no_news() -> None:
    cache = Cache()
    assert cache.put(pool(2)) == {POOL}
    assert cache.put(pool(2)) == set()
    assert cache.put(pool(1)) == set()
    assert cache.put(pool(3)) == {POOL}


def reborn(version: int) -> dict[str, Any]:
    return obj("Pool", "general", version, spec={}, metadata={"uid": "uid-reborn"})


def test_a_newer_object_of_the_name_replaces_and_an_old_page_brings_the_former_not_back() -> None:
    cache = Cache()
    cache.put(pool(3))
    assert cache.put(reborn(9)) == {POOL}
    assert cache.put(pool(3)) == set()
    assert cache.drop(POOL, 8) == set(), "that was the former object's end"
    held = cache.get(POOL)
    assert held is not None
    assert held["metadata"]["uid"] == "uid-reborn"


def test_an_old_page_brings_nothing_back_that_has_gone_since() -> None:
    cache = Cache()
    cache.put(pool(3))
    before = cache.before_listing()
    assert cache.drop(POOL, 5) == {POOL}
    assert cache.put(pool(3)) == set()
    assert cache.get(POOL) is None
    assert not cache.is_unlisted(POOL, before[POOL])
    assert cache.put(reborn(6)) == {POOL}
    assert not cache.is_unlisted(POOL, before[POOL]), "it came while the list was read"


def test_what_a_list_does_not_show_is_told_from_what_changed_meanwhile() -> None:
    cache = Cache()
    cache.put(pool(3))
    assert cache.is_unlisted(POOL, cache.before_listing()[POOL])
    cache.put(pool(4))
    assert not cache.is_unlisted(POOL, 3)


def test_a_child_that_loses_its_owner_and_goes_leaves_nothing_behind() -> None:
    cache = Cache()
    cache.put(pool())
    cache.put(deployment())
    assert cache.put(obj("Deployment", "workers", 2)) == {POOL}, "its owner has to look"
    assert cache.children(POOL) == ()
    assert cache.drop(Key("Deployment", "default", "workers"), 3) == set()
    assert cache.children(POOL) == ()


def test_a_child_is_a_reason_to_look_at_its_owner() -> None:
    cache = Cache()
    cache.put(pool())
    assert cache.put(deployment()) == {POOL}
    assert [child["kind"] for child in cache.children(POOL)] == ["Deployment"]
    assert cache.drop(Key("Deployment", "default", "workers")) == {POOL}
    assert cache.children(POOL) == ()


def test_a_reference_is_a_reason_to_look_at_who_names_it_also_before_it_exists() -> None:
    cache = Cache()
    cache.put(agent())
    assert cache.references(AGENT) == {POOL: None}
    assert cache.put(pool()) == {POOL, AGENT}
    assert cache.references(AGENT)[POOL] is not None
    assert cache.drop(POOL) == {POOL, AGENT}


def test_what_no_reconciler_reads_is_not_held() -> None:
    cache = Cache()
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1000, "kept": "yes"}
    cache.put(
        obj(
            "Pool",
            "general",
            1,
            spec={},
            metadata={"managedFields": [{}], "annotations": annotations},
        )
    )
    held = cache.get(POOL)
    assert held is not None
    assert "managedFields" not in held["metadata"]
    assert held["metadata"]["annotations"] == {"kept": "yes"}
