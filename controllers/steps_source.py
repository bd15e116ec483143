"""The ConfigMap that holds a Workflow's steps: its text is handed to the engine as it stands.

The engine reads it, so that a large plan costs the operator nothing but the way through.
"""

from __future__ import annotations

from dataclasses import dataclass

from seedbed.controllers.plan import Key, Observed
from seedbed.crds.steps_source import PLAN_LABEL, ConfigMapKey
from seedbed.crds.workflow import WorkflowSpec


@dataclass(frozen=True, slots=True)
class Document:
    """Text with steps; Base64 of bytes where `packed`."""

    text: str = ""
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no document: a reason and a sentence."""

    reason: str
    message: str


def document(observed: Observed, spec: WorkflowSpec) -> Document | Missing:
    """What the spec takes its steps from; an empty one where it needs no ConfigMap."""
    source = spec.steps_from.config_map if spec.steps_from is not None else None
    if source is None:
        return Document()
    found = observed.references.get(Key("ConfigMap", observed.key.namespace, source.name))
    if found is None:
        return Missing("ConfigMapNotFound", _unknown(source))
    text = (found.get("data") or {}).get(source.key)
    if text is not None:
        return Document(text)
    packed = (found.get("binaryData") or {}).get(source.key)
    if packed is not None:
        return Document(packed, packed=True)
    said = f"ConfigMap `{source.name}` has no entry `{source.key}` yet"
    return Missing("ConfigMapNotFound", f"spec.stepsFrom.configMap.key: {said}")


def _unknown(source: ConfigMapKey) -> str:
    said = f"there is no ConfigMap `{source.name}` with the label `{PLAN_LABEL}` yet"
    return f"spec.stepsFrom.configMap.name: {said}"
