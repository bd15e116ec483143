"""Documents with steps: every form gives the same steps, and what is wrong is told in one sentence."""

from __future__ import annotations

import gzip
import json
import sys

import pytest
import yaml

from seedbed.crds import steps_document
from seedbed.crds.errors import InvalidError
from seedbed.crds.steps_document import packed, read_steps, steps_from_json, steps_to_json

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEPS = [
    {"name": "a", "call": {"entry": "m:f", "args": {"x": 1, "when": "${params.day}"}}},
    {"name": "b", "agent": {"name": "reader"}, "needs": ["a"], "retry": {"attempts": 3}},
]
ALIASED = b"""
- {name: &first a, call: {entry: "m:f", args: {x: 1, when: "${params.day}"}}}
- {name: b, agent: {name: reader}, needs: [*first], retry: {attempts: 3}}
"""
BOMB = b"\n".join(
    [
        b"- &a0 [x]",
        *(b"- &a%d [%s]" % (n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 12)),
    ]
)
AS_JSON = json.dumps(STEPS).encode()


@pytest.mark.parametrize(
    "document",
    [
        AS_JSON,
        json.dumps({"steps": STEPS}, indent=1).encode(),
        yaml.safe_dump(STEPS).encode(),
        yaml.safe_dump({"steps": STEPS}).encode(),
        ALIASED,
        gzip.compress(AS_JSON),
        zstd.compress(yaml.safe_dump({"steps": STEPS}).encode()),
    ],
    ids=["json", "object", "yaml", "yaml-object", "aliases", "gzip", "zstd"],
)
def test_every_form_gives_the_same_steps(document: bytes) -> None:
    steps = read_steps(document)
    assert [step.name for step in steps] == ["a", "b"]
    assert steps == read_steps(AS_JSON)
    kept = steps_to_json(steps)
    assert steps_from_json(kept) == steps
    assert kept == steps_to_json(read_steps(packed(steps)))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"[]", "should have at least 1 item"),
        (b"- {name: A, call: {entry: 'm:f'}}", "[0].name"),
        (b"- {name: a, call: {entry: 'm:f'}, retries: 3}", "[0].retries is no known field"),
        (b"- {name: a, call: {}}", "[0].call.entry is required"),
        (b"- {name: a, call: {entry: 'm:f'}, allowFailure: 'no'}", "[0].allowFailure"),
        (b"steps: [{name: a}]\nresult: x", "result is no known field"),
        (b"just text", "expected a list of steps"),
        (BOMB, "aliases stand for more than"),
        (b"- &x [*x]", "aliases stand for more than"),
        (b"a: [", "is no YAML"),
        (b"[{", "EOF"),
        (b"\xff\xfe\x00", "neither text nor packed"),
        (gzip.compress(AS_JSON)[:-20], "ends too early"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 40, "cannot be unpacked"),
        (b"- {1: 2}", "[0].name is required"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(document: bytes, said: str) -> None:
    with pytest.raises(InvalidError) as refused:
        read_steps(document, "plan.yaml")
    assert refused.value.field == "plan.yaml"
    assert said in refused.value.expected
    assert "\n" not in refused.value.message


def test_size_is_bounded_before_and_after_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_document, "DOCUMENT_LIMIT", 1000)
    monkeypatch.setattr(steps_document, "UNPACKED_LIMIT", 5000)
    with pytest.raises(InvalidError, match="has 1001 bytes, at most 1000"):
        read_steps(b"-" * 1001)
    for bomb in (gzip.compress(b"-" * 1_000_000), zstd.compress(b"-" * 1_000_000)):
        with pytest.raises(InvalidError, match="more than 5000 bytes once it is unpacked"):
            read_steps(bomb if len(bomb) < 1000 else bomb[:1000])
