"""Reads manifests and judges them as the API server and the admission webhook would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seedbed.cli.embedded.plan_files import PlanFile, labelled_config_map, plan_file
from seedbed.controllers.plan import Key, Raw
from seedbed.crds.admission import validate
from seedbed.crds.errors import InvalidError, TerminalError
from seedbed.crds.kinds import BY_NAME

_SUFFIXES = (".yaml", ".yml", ".json")


class ManifestError(TerminalError):
    """Manifests cannot be used.

    Attributes:
        problems: one sentence each: file, object, field, and what was expected.
    """

    code = "invalid_manifest"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a user wants to run: objects, and the files that they name."""

    objects: list[Raw]
    plans: list[PlanFile]


def load(paths: Iterable[Path], namespace: str) -> list[Raw]:
    """The objects alone; see `read`."""
    return read(paths, namespace).objects


def read(paths: Iterable[Path], namespace: str) -> Manifests:
    """The objects of files and folders, with the defaults a server sets.

    Args:
        paths: YAML or JSON files, each with any number of documents, and folders of such files.
        namespace: for objects that name none.

    Raises:
        ManifestError: with every problem there is.
    """
    problems: list[str] = []
    found: dict[Key, Raw] = {}
    plans: list[PlanFile] = []
    for file in _files(paths, problems):
        for document in _documents(file, problems):
            try:
                obj = admitted(document, namespace)
                plan = _plan_file(obj, file)
            except ManifestError as error:
                problems += [f"{file}: {problem}" for problem in error.problems]
                continue
            if obj is None:
                continue
            plans += [plan] if plan else []
            metadata = obj["metadata"]
            key = Key(obj["kind"], metadata["namespace"], metadata["name"])
            if key in found:
                problems.append(f"{file}: {key}: the same object stands in the manifests twice")
            found[key] = obj
    if not found and not problems:
        problems.append("no object in any of the manifests")
    if problems:
        raise ManifestError(problems)
    return Manifests(list(found.values()), plans)


def admitted(document: Any, namespace: str) -> Raw | None:
    """One object with its defaults; None for one that does not concern Seedbed.

    Raises:
        ManifestError: with every problem of the object.
    """
    if not isinstance(document, dict):
        raise ManifestError([f"expected an object, not {document!r:.40}"])
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        document = {**document, "metadata": {"namespace": namespace, **metadata}}
    label = _label(document)
    if (document.get("apiVersion"), document.get("kind")) == ("v1", "ConfigMap"):
        try:
            return labelled_config_map(document)
        except InvalidError as error:
            raise ManifestError([f"{label}: {error}"]) from error
    kind = BY_NAME.get(str(document.get("kind")))
    problems = validate(document)
    if problems or kind is None:
        raise ManifestError([f"{label}: {problem}" for problem in problems])
    spec = kind.spec.model_validate(document.get("spec", {}))
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": document["metadata"],
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _plan_file(obj: Raw | None, file: Path) -> PlanFile | None:
    if obj is None or obj["kind"] != "Workflow":
        return None
    try:
        return plan_file(obj, file)
    except InvalidError as error:
        raise ManifestError([f"{_label(dict(obj))}: {error}"]) from error


def _label(document: dict[str, Any]) -> str:
    """What the user knows the object by, however little of it there is."""
    metadata = document.get("metadata")
    name = metadata.get("name", "?") if isinstance(metadata, dict) else "?"
    return f"{document.get('kind', 'object')} {name}"


def _files(paths: Iterable[Path], problems: list[str]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
            if not inside:
                problems.append(f"{path}: no manifest in this folder")
            yield from inside
        elif path.exists():
            yield path
        else:
            problems.append(f"{path}: no such file or folder")


def _documents(file: Path, problems: list[str]) -> list[Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            return [one for one in yaml.safe_load_all(stream) if one is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"{file}: {' '.join(str(error).split())}")
        return []
