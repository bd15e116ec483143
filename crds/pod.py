"""What a user may say about the pods that Seedbed makes: passed through to Kubernetes unchanged."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from seedbed.crds.base import NAMED, OPEN, LabelValue, Model


class PodSettings(Model):
    """Settings of a pod. Each one is Kubernetes' own field of the same name."""

    image: str | None = Field(
        default=None,
        description="Container image; the operator's own image where none is given.",
        min_length=1,
        max_length=512,
        examples=["example.org/team/worker:1.4"],
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the image is pulled.", examples=["IfNotPresent"]
    )
    service_account_name: str | None = Field(
        default=None,
        description="Service account of the pods; one without any rights where none is given.",
        max_length=253,
        examples=["licence-auditor"],
    )
    resources: dict[str, Any] = Field(
        default_factory=dict,
        description="Requests, limits and claims of the container.",
        examples=[{"limits": {"nvidia.com/gpu": 1}}],
        json_schema_extra=OPEN,
    )
    env: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Environment variables of the container, also from Secrets.",
        max_length=64,
        examples=[[{"name": "TEAM", "value": "legal"}]],
        json_schema_extra=NAMED,
    )
    node_selector: dict[str, LabelValue] = Field(
        default_factory=dict,
        description="Labels that a node must carry.",
        max_length=32,
        examples=[{"zone": "a"}],
    )
    tolerations: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Taints that the pods accept.",
        max_length=32,
        examples=[[{"key": "nvidia.com/gpu", "operator": "Exists"}]],
        json_schema_extra={"items": {"type": "object", **OPEN}},
    )
    topology_spread_constraints: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="How the pods spread over nodes and zones.",
        max_length=8,
        examples=[
            [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                }
            ]
        ],
        json_schema_extra={"items": {"type": "object", **OPEN}},
    )
    resource_claims: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Claims for devices through dynamic resource allocation.",
        max_length=8,
        examples=[[{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]],
        json_schema_extra=NAMED,
    )
    priority_class_name: str | None = Field(
        default=None,
        description="Priority class of the pods.",
        max_length=253,
        examples=["batch-low"],
    )
