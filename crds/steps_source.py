"""Where a Workflow's steps come from when they do not stand in the object itself."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field

from seedbed.crds.base import Model

PUSHED = "seedbed://sha256/"
"""Scheme of plans that were pushed into Seedbed's own store, followed by their SHA-256."""

PLAN_LABEL = "seedbed.dev/plan"
"""The label of ConfigMaps that hold steps: the operator watches no others."""
DIGEST_PATTERN = r"^[0-9a-f]{64}$"


class ConfigMapKey(Model):
    """One entry of a ConfigMap that carries the label `seedbed.dev/plan`."""

    name: str = Field(
        description="A ConfigMap of the same namespace, with the label `seedbed.dev/plan`.",
        pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
        max_length=253,
        examples=["nightly-plan"],
    )
    key: str = Field(
        default="steps.yaml",
        description="The entry of `data` or `binaryData` that holds the steps.",
        pattern=r"^[-._a-zA-Z0-9]+$",
        max_length=253,
        examples=["steps.yaml"],
    )


class Artifact(Model):
    """A file that is known by its content."""

    url: str = Field(
        description=(
            "`seedbed://sha256/...` as `seedbed plan push` tells it, `https://...` of a host that the "
            "installation allows, or `file:PATH` below the engine's plan folder (for `seedbed run`: "
            "beside the manifest)."
        ),
        pattern=r"^(seedbed://sha256/[0-9a-f]{64}|https://[^ ]+|file:[^ ]+)$",
        max_length=2048,
        examples=["https://plans.example.com/nightly.json.zst"],
    )
    sha256: str | None = Field(
        default=None,
        description="SHA-256 of the file as it is served; a `seedbed://` URL tells it by itself.",
        pattern=DIGEST_PATTERN,
        max_length=64,
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal digits; empty where it is not told."""
        if self.url.startswith(PUSHED):
            return self.url.removeprefix(PUSHED)
        return self.sha256 or ""


class StepsFrom(Model):
    """A document with the steps: exactly one of `configMap` and `artifact`.

    The document is YAML or JSON, plain or compressed with gzip or zstd: a list of steps, or an object
    whose `steps` are that list.
    """

    config_map: ConfigMapKey | None = Field(
        default=None,
        description="The steps stand in a ConfigMap. A change of it is another plan.",
        examples=[{"name": "nightly-plan", "key": "steps.yaml"}],
    )
    artifact: Artifact | None = Field(
        default=None,
        description="The steps stand in a file that the engine reads once.",
        examples=[{"url": f"{PUSHED}{'0' * 64}"}],
    )


def source_name(source: StepsFrom) -> str:
    """What a person knows the source by."""
    if source.config_map is not None:
        return f"ConfigMap `{source.config_map.name}`, key `{source.config_map.key}`"
    return shown(source.artifact.url) if source.artifact is not None else "nowhere"


def shown(url: str) -> str:
    """A URL as it may be told: a signature or a password in it is nobody else's business."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0]}:..."
    if parts.scheme != "https":
        return url
    query = "?..." if parts.query else ""
    return f"https://{host_of(parts.netloc)}{parts.path}{query}"


def host_of(netloc: str) -> str:
    """The host of a URL, with its port, without a name and a password before it."""
    return netloc.rpartition("@")[2]
