"""The licence audit: what texts mean, which documents are chosen, how answers are judged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.examples.quickstart import licences
from seedbed.examples.quickstart.licence_kinds import (
    KINDS,
    kind_of,
    kind_of_classifiers,
    licence_name,
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("MIT", "permissive"),
        ("MIT-0", "permissive"),
        ("Apache-2.0", "permissive"),
        ("Apache License, Version 2.0", "permissive"),
        ("3-Clause BSD License", "permissive"),
        ("0BSD", "permissive"),
        ("BSL-1.0", "permissive"),
        ("BUSL-1.1", "proprietary"),
        ("PSF-2.0", "permissive"),
        ("MPL-2.0", "weak copyleft"),
        ("LGPL-2.1-or-later", "weak copyleft"),
        ("GPL-3.0-only", "copyleft"),
        ("AGPL-3.0-or-later", "copyleft"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "weak copyleft"),
        ("Unlicense", "public domain"),
        ("CC0-1.0", "public domain"),
        ("LicenseRef-Proprietary", "proprietary"),
        ("MIT OR GPL-3.0-only", "permissive"),
        ("MIT AND GPL-3.0-only", "copyleft"),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "weak copyleft"),
        ("(MIT OR GPL-2.0-only) AND BSD-3-Clause", "permissive"),
        ("MIT AND LicenseRef-Other", "unknown"),
        ("MIT License\n\nCopyright (c) somebody\n GNU GPL", "permissive"),
        ("Permission is limited", "unknown"),
        ("MIT OR", "permissive"),
        ("((", "unknown"),
        ("", "unknown"),
        ("see the file", "unknown"),
    ],
)
def test_the_kind_of_a_text(text: str, kind: str) -> None:
    assert kind_of(text) == kind


@given(st.text(alphabet="()ANDORWITH GPLMIT-2.0", max_size=60))
def test_any_text_has_a_kind(text: str) -> None:
    assert kind_of(text) in KINDS


def test_classifiers_take_the_licence_that_asks_most() -> None:
    mit = "License :: OSI Approved :: MIT License"
    mpl = "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"
    assert kind_of_classifiers([mit]) == "permissive"
    assert kind_of_classifiers([mit, mpl]) == "weak copyleft"
    assert kind_of_classifiers(["License :: DFSG approved", mit]) == "permissive"
    assert kind_of_classifiers(["Topic :: GPL things"]) == "unknown"
    assert kind_of_classifiers([]) == "unknown"


def test_names_of_licences() -> None:
    assert licence_name("Apache Software License") == "Apache"
    assert licence_name("something of our own") == ""


def document(name: str, expression: str = "MIT") -> dict[str, Any]:
    declared = {"expression": expression, "classifiers": [], "licence": ""}
    return {
        "name": name,
        "version": "1.0",
        "file": "LICENSE",
        "excerpt": "text",
        "declared": declared,
    }


def test_the_choice_takes_kinds_in_turn_and_is_the_same_in_any_order() -> None:
    documents = [document(f"m{i}") for i in range(10)]
    documents += [
        document("zgpl", "GPL-3.0-only"),
        document("zmpl", "MPL-2.0"),
        document("zbsd", "BSD-3-Clause"),
    ]
    chosen = [row["name"] for row in licences.varied(documents, 5)]
    assert chosen == ["m0", "m1", "zbsd", "zgpl", "zmpl"]
    assert [row["name"] for row in licences.varied(documents[::-1], 5)] == chosen
    assert len(licences.varied(documents, 100)) == len(documents)


def test_collecting_reads_real_packages_twice_alike() -> None:
    rows = licences.collect(limit=5, excerpt=300)
    assert len(rows) == 5
    assert rows == licences.collect(limit=5, excerpt=300)
    assert all(200 <= len(row["excerpt"]) <= 300 for row in rows)
    assert len({licences.declared_kind(row["declared"]) for row in rows}) > 1


def test_collecting_nothing_is_refused() -> None:
    with pytest.raises(InvalidError, match="limit"):
        licences.collect(limit=0)


def test_metadata_decides_by_its_most_exact_field() -> None:
    declared = {
        "expression": "MIT",
        "classifiers": ["License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"],
        "licence": "GPL",
    }
    assert licences.declared_kind(declared) == "permissive"
    assert licences.declared_kind(declared | {"expression": ""}) == "weak copyleft"
    assert licences.declared_kind({"licence": "GPL"}) == "copyleft"
    assert licences.declared_kind({}) == "unknown"
    assert licences.declared_text({}) == ""


GOOD = {"kind": "permissive", "demands": "Keep the notice."}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (GOOD, ""),
        (GOOD | {"demands": ["notice", "disclaimer"]}, ""),
        ({"licence": "Apache-2.0", "demands": "Keep the notice."}, ""),
        ({"licence": "something", "demands": "Keep the notice."}, "licence tells no kind"),
        (GOOD | {"kind": "MIT"}, "kind tells no kind"),
        (GOOD | {"kind": "unknown"}, "kind tells no kind"),
        (GOOD | {"kind": None}, "kind tells no kind"),
        (GOOD | {"demands": " "}, "demands are empty"),
        (GOOD | {"demands": 3}, "demands are empty"),
        ("permissive", "not an object"),
        (None, "no answer"),
    ],
)
def test_the_structure_of_an_answer(answer: Any, problem: str) -> None:
    (row,) = licences.check([document("a")], {"terse": [answer], "careful": [None]}, {})
    assert row["problem"].startswith(problem)
    assert bool(row["problem"]) == bool(problem)


def test_the_table_counts_what_agrees_and_says_what_it_is_worth() -> None:
    documents = [
        document("right"),
        document("wrong", "MPL-2.0"),
        document("bad"),
        document("silent"),
        document("untold", ""),
    ]
    answers = {
        "terse": [GOOD, None, {"kind": "?"}, None, GOOD],
        "careful": [None, GOOD, None, None, None],
    }
    errors = {
        "terse": [None] * 5,
        "careful": [None, None, None, {"code": "timeout", "message": "too slow"}, None],
    }
    rows = licences.compare(documents, licences.check(documents, answers, errors))
    result = licences.table(rows)

    assert [row[-1] for row in result["rows"]] == ["yes", "no", "malformed", "malformed", "?"]
    assert result["rows"][3] == [
        "silent 1.0",
        "careful",
        "",
        "too slow",
        "permissive (MIT)",
        "malformed",
    ]
    assert {len(row) for row in result["rows"]} == {len(result["columns"])}
    summary = result["summary"]
    assert (summary["documents"], summary["compared"]) == (5, 2)
    assert (summary["agreements"], summary["disagreements"], summary["malformed"]) == (1, 1, 2)
    assert summary["agreementRate"] == 0.5
    assert summary["alwaysPermissiveRate"] == 0.5
    assert summary["byPrompt"] == {
        "terse": {"compared": 1, "agreements": 1},
        "careful": {"compared": 1, "agreements": 0},
    }
    assert "kind of 1 of 2 licences" in summary["note"]


def test_a_name_is_read_as_a_kind_and_compared_as_a_name_too() -> None:
    documents = [document("same", "MIT"), document("other", "BSD-3-Clause")]
    answer = {"licence": "MIT", "demands": "Keep the notice."}
    rows = licences.compare(documents, licences.check(documents, {"terse": [answer, answer]}, {}))
    result = licences.table(rows)
    assert [row[2:] for row in result["rows"]] == [
        ["permissive (MIT)", "Keep the notice.", "permissive (MIT)", "yes"],
        ["permissive (MIT)", "Keep the notice.", "permissive (BSD)", "yes"],
    ]
    assert result["summary"]["sameName"] == 1


def test_a_table_of_nothing_has_no_rate() -> None:
    assert licences.table([])["summary"]["agreementRate"] is None
