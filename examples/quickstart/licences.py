"""The licence audit of the quickstart, as entry points that `call` steps name.

`collect` reads the licence files of the Python distributions installed where the worker runs. An
agent reads each one without knowing what the package declares. `check` looks at the form of the
answers, `compare` holds them against the packages' own metadata, and `table` joins everything and
says how far model and metadata agree. All but `collect` are pure.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.examples.quickstart.licence_kinds import (
    KINDS,
    kind_of,
    kind_of_classifiers,
    licence_name,
)

Row = dict[str, Any]

# Not LICENSE-MIT beside LICENSE-APACHE: one of several files is not what the package declares.
_LICENCE_FILE = re.compile(r"^(licen[cs]e|copying|unlicense)(\.(txt|md|rst))?$", re.IGNORECASE)
_SHORTEST_TEXT = 200
_LONGEST_TEXT = 60
_LONGEST_CELL = 44
_COLUMNS = ("package", "prompt", "model says", "demands", "metadata says", "agree")


def collect(limit: int = 12, excerpt: int = 400) -> list[Row]:
    """Licence files of the distributions installed here, with what the packages declare.

    Args:
        limit: how many documents at most.
        excerpt: characters of each file, from its beginning, white space made single.

    Returns:
        One row per document: `name`, `version`, `file`, `excerpt`, and `declared` with
        `expression`, `classifiers` and `licence` as in the package's metadata. The choice is the
        same wherever the same packages are installed, and spread over kinds and families of
        licences; it is therefore no sample of how common they are.
    """
    if limit < 1 or excerpt < 1:
        raise InvalidError("args.limit" if limit < 1 else "args.excerpt", "expected at least 1")
    found = {row["name"]: row for row in _documents(distributions(), excerpt)}
    if not found:
        raise NotFoundError("licence file", "of any installed distribution")
    return varied(list(found.values()), limit)


def varied(documents: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit` documents: kinds in turn, and within a kind families of licences in turn."""
    common = Counter(_family(row) for row in documents)
    by_kind: dict[str, list[Row]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for row in sorted(documents, key=lambda row: row["name"].lower()):
        by_kind[declared_kind(row["declared"])].append({"turn": seen[_family(row)], "row": row})
        seen[_family(row)] += 1
    lines = [
        sorted(line, key=lambda one: (one["turn"], -common[_family(one["row"])]))
        for _, line in sorted(by_kind.items(), key=lambda item: KINDS.index(item[0]))
    ]
    chosen: list[Row] = []
    while len(chosen) < limit and any(lines):
        chosen += [line.pop(0)["row"] for line in lines if line]
    return sorted(chosen[:limit], key=lambda row: row["name"].lower())


def check(
    documents: Sequence[Row], answers: Mapping[str, Sequence[Any]], errors: Mapping[str, Any]
) -> list[Row]:
    """The answers in one list, each with its `problem`; empty where the answer has the right form.

    Args:
        documents: what `collect` gave.
        answers: by prompt style, a list as long as `documents`, null for those not asked or failed.
        errors: likewise why a step failed, `{code, message}`.
    """
    return [
        {
            "name": document["name"],
            "version": document["version"],
            **_checked(index, answers, errors),
        }
        for index, document in enumerate(documents)
    ]


def compare(documents: Sequence[Row], answers: Sequence[Row]) -> list[Row]:
    """The checked answers, each with what the metadata says, and whether both mean the same kind.

    `agree` is null where the answer or the metadata tells no kind.
    """
    rows = []
    for document, answer in zip(documents, answers, strict=True):
        declared = declared_kind(document["declared"])
        comparable = not answer["problem"] and declared != "unknown"
        rows.append(
            {
                **answer,
                "declared": declared,
                "declaredAs": _family(document),
                "agree": answer["kind"] == declared if comparable else None,
                "sameName": comparable and licence_name(answer["saidAs"]) == _family(document),
            }
        )
    return rows


def table(rows: Sequence[Row]) -> Row:
    """Everything in one table, `columns` and `rows`, with a `summary` of how far it can be trusted."""
    return {
        "columns": list(_COLUMNS),
        "rows": [_line(row) for row in rows],
        "summary": summary(rows),
    }


def summary(rows: Sequence[Row]) -> Row:
    """Counts, the agreement rate, and beside it what answering `permissive` always would reach."""
    judged = [row for row in rows if row["agree"] is not None]
    agreed = sum(row["agree"] for row in judged)
    plain = sum(row["declared"] == "permissive" for row in judged)
    named = sum(row["sameName"] for row in judged)
    malformed = sum(bool(row["problem"]) for row in rows)
    return {
        "agreementRate": _rate(agreed, len(judged)),
        "agreements": agreed,
        "alwaysPermissiveRate": _rate(plain, len(judged)),
        "byPrompt": _by_prompt(rows),
        "compared": len(judged),
        "disagreements": len(judged) - agreed,
        "documents": len(rows),
        "malformed": malformed,
        "note": (
            f"Model and metadata agree on the kind of {agreed} of {len(judged)} licences compared, "
            f"and on the name of {named}; always answering 'permissive' would agree on {plain}. "
            f"{malformed} of {len(rows)} answers were missing or malformed. "
            "A small model's reading is no legal advice."
        ),
        "sameName": named,
    }


def declared_kind(declared: Mapping[str, Any]) -> str:
    """The kind of licence that a package's metadata means; the most exact field that tells decides."""
    kinds = (
        kind_of(declared.get("expression") or ""),
        kind_of_classifiers(declared.get("classifiers") or ()),
        kind_of(declared.get("licence") or ""),
    )
    return next((kind for kind in kinds if kind != "unknown"), "unknown")


def declared_text(declared: Mapping[str, Any]) -> str:
    """What the metadata says, in at most 60 characters; empty where it says nothing."""
    names = [one.rsplit(":: ", 1)[-1] for one in declared.get("classifiers") or ()]
    text: str = declared.get("expression") or "; ".join(names) or declared.get("licence") or ""
    return next(iter(text.splitlines()), "")[:_LONGEST_TEXT]


def _documents(installed: Iterable[Distribution], excerpt: int) -> Iterator[Row]:
    for distribution in installed:
        path, text = _licence_text(distribution)
        if len(text) < _SHORTEST_TEXT:
            continue
        metadata = distribution.metadata
        classifiers = metadata.get_all("Classifier") or []
        yield {
            "name": metadata["Name"],
            "version": distribution.version,
            "file": path,
            "excerpt": text[:excerpt],
            "declared": {
                "expression": _first(metadata.get_all("License-Expression")),
                "classifiers": [one for one in classifiers if one.startswith("License ::")],
                "licence": _first(metadata.get_all("License"))[:_SHORTEST_TEXT],
            },
        }


def _first(values: Sequence[str] | None) -> str:
    return values[0] if values else ""


def _licence_text(distribution: Distribution) -> tuple[str, str]:
    """Path and text of the distribution's own licence file; vendored ones lie deeper."""
    files = [file for file in distribution.files or () if _LICENCE_FILE.match(file.name)]
    for file in sorted(files, key=lambda file: (len(file.parts), str(file))):
        try:
            text = Path(str(distribution.locate_file(file))).read_text("utf-8", "replace")
        except OSError:
            continue  # listed, but not installed here
        return str(file), " ".join(text.split())
    return "", ""


def _family(row: Row) -> str:
    text = declared_text(row["declared"])
    return licence_name(text) or text


def _checked(index: int, answers: Mapping[str, Sequence[Any]], errors: Mapping[str, Any]) -> Row:
    for style, given in answers.items():
        error = errors.get(style, ())[index] if errors.get(style) else None
        if error is not None:
            return _unread(style, str(error["message"]))
        if given and given[index] is not None:
            return {**_structure(given[index]), "prompt": style}
    return _unread("", "no answer")


def _unread(style: str, problem: str) -> Row:
    return {"prompt": style, "kind": "", "saidAs": "", "demands": "", "problem": problem}


def _structure(answer: Any) -> Row:
    """The answer's fields as text; `problem` names the first that is not as asked for.

    An agent may answer with a `kind`, which must be one of those asked for, or with a `licence`,
    whose name means a kind.
    """
    if not isinstance(answer, Mapping):
        return _unread("", f"not an object: {answer!r:.40}")
    field = "kind" if "kind" in answer else "licence"
    said, demands = answer.get(field), answer.get("demands")
    named = field == "licence" and isinstance(said, str)
    kind = kind_of(str(said)) if named else said
    if isinstance(demands, list) and all(isinstance(one, str) for one in demands):
        demands = "; ".join(demands)
    problem = ""
    if kind not in KINDS or kind == "unknown":
        problem = f"{field} tells no kind of licence: {said!r:.40}"
    elif not isinstance(demands, str) or not demands.strip():
        problem = "demands are empty"
    return {
        "kind": str(kind or ""),
        "saidAs": str(said) if named else "",
        "demands": str(demands or ""),
        "problem": problem,
    }


def _line(row: Row) -> list[str]:
    verdict = "malformed" if row["problem"] else {True: "yes", False: "no", None: "?"}[row["agree"]]
    package = f"{row['name']} {row['version']}"
    said, declared = (
        f"{row[kind]} ({row[name]})" if row[name] else row[kind]
        for kind, name in (("kind", "saidAs"), ("declared", "declaredAs"))
    )
    told = row["problem"] or row["demands"]
    return [package, row["prompt"], _cut(said), _cut(told), _cut(declared), verdict]


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_CELL else line[: _LONGEST_CELL - 1] + "…"


def _by_prompt(rows: Sequence[Row]) -> Row:
    styles: dict[str, Row] = {}
    for row in rows:
        if row["prompt"]:
            style = styles.setdefault(row["prompt"], {"compared": 0, "agreements": 0})
            style["compared"] += row["agree"] is not None
            style["agreements"] += row["agree"] is True
    return styles


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None
