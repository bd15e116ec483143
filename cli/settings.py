"""What a role reads from its environment. A variable that is missing or wrong is named in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from seedbed.cli.event_settings import EventsSetting, read_events
from seedbed.crds.base import seconds
from seedbed.crds.errors import InvalidError

_PREFIX = "SEEDBED_"
# These are Kubernetes' own names.
_UNPREFIXED = ("POD_NAME", "POD_NAMESPACE")


def _with_scheme(value: str) -> str:
    return value if not value or "://" in value else f"http://{value}"


def _listed(value: object) -> object:
    if not isinstance(value, str):
        return value
    return frozenset(part.strip().lower() for part in value.split(",") if part.strip())


def _lower(value: str) -> str:
    return value.lower()


class Settings(BaseModel):
    """Every variable, in lower case and without `SEEDBED_`. A role says which ones it needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    nats_url: str = ""
    etcd_endpoint: Annotated[str, AfterValidator(_with_scheme)] = ""
    database_url: str = ""
    database_password: str = ""
    database_password_file: Path | None = None
    plan_hosts: Annotated[frozenset[str], BeforeValidator(_listed)] = frozenset()
    plan_folder: Path | None = None
    gateway_url: str = ""
    namespace: str = ""
    pool: str = ""
    workers: int = Field(default=4, ge=1, le=256)
    concurrency: int = Field(default=4, ge=1, le=256)
    adapter: Literal["python", "javascript"] = "python"
    events: EventsSetting = EventsSetting()
    drain: Annotated[float, Field(ge=0)] = 30.0
    models: Path | None = None
    identity: Literal["headers", "kubernetes"] = "headers"
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    port: int = Field(default=8000, ge=0, le=65535)
    health_port: int = Field(default=8080, ge=0, le=65535)
    checkpoint_keys: Path | None = None
    checkpoint_url: str = ""
    run_retention: Annotated[float, Field(ge=0)] = 0.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(validate_default=True)
    ] = "info"
    lease_seconds: float = Field(default=8.0, ge=1, le=120)
    worker_image: str = "seedbed"
    worker_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    seeds_image: str = "seedbed-kernels"
    seed_layer: str = ""
    seed_layer_uid: str = ""
    seed_checkpoints: str = ""
    seed_token: str = ""
    seed_group: Literal["", "replicated", "sharded"] = ""
    seed_processes: int = Field(default=1, ge=1, le=16)
    seed_least_pods: int = Field(default=1, ge=1, le=1000)
    seed_rendezvous: str = ""
    seed_address: str = ""
    webhook_enabled: bool = True
    webhook_port: int = Field(default=9443, ge=0, le=65535)
    webhook_service: str = "seedbed-webhook"
    webhook_configuration: str = "seedbed"
    webhook_secret: str = "seedbed-webhook-tls"  # noqa: S105  # the name of a Secret
    webhook_certificates: Path | None = None
    pod_name: str = ""
    pod_namespace: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str], *needed: str) -> Self:
        """Read the environment.

        Args:
            environment: such as `os.environ`.
            needed: fields that must have a value.

        Raises:
            InvalidError: naming the variable.
        """
        given: dict[str, Any] = {}
        for field in cls.model_fields:
            value = environment.get(_variable(field), "").strip()
            if value:
                given[field] = value
        for field in ("drain", "run_retention"):
            if field in given:
                given[field] = _seconds(_variable(field), given[field])
        if "events" in given:
            given["events"] = read_events(given["events"])
        if "log_level" in given:
            given["log_level"] = _lower(given["log_level"])
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidError(_variable(str(first["loc"][0])), first["msg"].lower()) from None
        for field in needed:
            if not getattr(settings, field):
                raise InvalidError(_variable(field), "is not set, and this role needs it")
        return settings

    @property
    def holder(self) -> str:
        """What this process calls itself in leases."""
        return self.pod_name or "local"

    def store_url(self) -> str:
        """The database's URL with the password in it.

        Raises:
            InvalidError: where the password's file cannot be read.
        """
        password = self.database_password
        if self.database_password_file is not None:
            try:
                password = self.database_password_file.read_text().strip()
            except OSError as error:
                raise InvalidError("SEEDBED_DATABASE_PASSWORD_FILE", str(error)) from error
        parts = urlsplit(self.database_url)
        if not password or parts.hostname is None:
            return self.database_url
        user = parts.username or "seedbed"
        _, _, place = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def _variable(field: str) -> str:
    upper = field.upper()
    return upper if upper in _UNPREFIXED else f"{_PREFIX}{upper}"


def _seconds(variable: str, value: str) -> float:
    try:
        return float(value) if value.replace(".", "", 1).isdigit() else seconds(value)
    except ValueError as error:
        raise InvalidError(variable, str(error)) from None
