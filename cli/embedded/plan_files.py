"""Steps outside of a manifest, for `seedbed run`: labelled ConfigMaps, and files beside the manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from seedbed.controllers.plan import Raw
from seedbed.crds.errors import InvalidError
from seedbed.crds.steps_document import DOCUMENT_LIMIT
from seedbed.crds.steps_source import PLAN_LABEL, PUSHED, StepsFrom

_URL = "spec.stepsFrom.artifact.url"


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A file with steps that a Workflow of a namespace names."""

    namespace: str
    digest: str
    data: bytes


def labelled_config_map(document: dict[str, Any]) -> Raw | None:
    """A ConfigMap that holds steps; None for others, which do not concern Seedbed.

    Raises:
        InvalidError: where it is no ConfigMap as the API server takes it.
    """
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidError("metadata.name", "is required")
    if PLAN_LABEL not in (metadata.get("labels") or {}):
        return None
    for part in ("data", "binaryData"):
        for key, value in (document.get(part) or {}).items():
            if not isinstance(value, str):
                raise InvalidError(f"{part}.{key}", "must be text")
    return document


def plan_file(workflow: Raw, manifest: Path) -> PlanFile | None:
    """The file that a Workflow takes its steps from, found relative to its manifest; or None.

    Raises:
        InvalidError: where it is not there, or is another one than the Workflow says.
    """
    source = (workflow.get("spec") or {}).get("stepsFrom")
    artifact = StepsFrom.model_validate(source).artifact if source else None
    if artifact is None or artifact.url.startswith("https:"):
        return None
    if artifact.url.startswith(PUSHED):
        raise InvalidError(_URL, "plans are pushed to a cluster: here use `file:PATH`")
    path = manifest.parent / unquote(artifact.url.removeprefix("file:"))
    try:
        if path.stat().st_size > DOCUMENT_LIMIT:
            raise InvalidError(_URL, f"{path} has more than {DOCUMENT_LIMIT} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidError(_URL, f"{path}: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != artifact.digest:
        raise InvalidError("spec.stepsFrom.artifact.sha256", f"{path} has SHA-256 {found}")
    return PlanFile(workflow["metadata"]["namespace"], found, data)
