"""What roles read from their environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seedbed.cli.settings import Settings
from seedbed.crds.errors import InvalidError
from seedbed.runtime.bus.events import EventSettings, Limits

ROLES = {
    "operator": "SEEDBED_NATS_URL",
    "engine": "SEEDBED_NATS_URL",
    "api": "SEEDBED_ETCD_ENDPOINT",
    "worker": "SEEDBED_NATS_URL",
    "gateway": "SEEDBED_PORT",
}


def test_values_are_read_and_have_defaults() -> None:
    given = {
        "SEEDBED_NATS_URL": "nats://nats:4222",
        "SEEDBED_ETCD_ENDPOINT": "etcd:2379",
        "SEEDBED_WORKERS": "8",
        "SEEDBED_DRAIN": "1m30s",
        "SEEDBED_LOG_LEVEL": "DEBUG",
        "POD_NAME": "engine-0",
        "SEEDBED_POOL": "",
        "OTHER": "ignored",
    }
    settings = Settings.read(given, "nats_url")
    assert settings.etcd_endpoint == "http://etcd:2379"
    assert (settings.workers, settings.drain, settings.log_level) == (8, 90.0, "debug")
    assert (settings.holder, settings.health_port, settings.port) == ("engine-0", 8080, 8000)
    assert Settings.read({"SEEDBED_DRAIN": "12.5"}).drain == 12.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEEDBED_WORKERS", "many"),
        ("SEEDBED_WORKERS", "0"),
        ("SEEDBED_DRAIN", "soon"),
        ("SEEDBED_LOG_LEVEL", "loud"),
        ("SEEDBED_ADAPTER", "cobol"),
        ("SEEDBED_HEALTH_PORT", "70000"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Settings.read({name: value})
    assert caught.value.field == name


def test_the_database_url_takes_the_password(tmp_path: Path) -> None:
    url = "postgresql+asyncpg://seedbed@db:5432/runs?ssl=require"
    password = "p@ss/w:rd%"
    expected = "postgresql+asyncpg://seedbed:p%40ss%2Fw%3Ard%25@db:5432/runs?ssl=require"
    given = {"SEEDBED_DATABASE_URL": url}
    assert Settings.read(given).store_url() == url
    assert Settings.read(given | {"SEEDBED_DATABASE_PASSWORD": password}).store_url() == expected
    file = tmp_path / "password"
    file.write_text(password + "\n")
    from_file = Settings.read(given | {"SEEDBED_DATABASE_PASSWORD_FILE": str(file)})
    assert from_file.store_url() == expected
    gone = Settings.read(given | {"SEEDBED_DATABASE_PASSWORD_FILE": str(tmp_path / "none")})
    with pytest.raises(InvalidError, match="SEEDBED_DATABASE_PASSWORD_FILE"):
        gone.store_url()


@pytest.mark.req("COG-S7.3")
@pytest.mark.parametrize("role", ROLES)
def test_every_role_writes_json_and_names_what_is_missing(role: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "SEEDBED" not in name}
    wrong = {"SEEDBED_PORT": "x"} if role == "gateway" else {}
    code = f"from seedbed.cli.serve import app; app([{role!r}])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | wrong,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert not done.stderr
    (line,) = [json.loads(each) for each in done.stdout.splitlines()]
    assert line["service"] == role
    assert line["level"] == "error"
    assert ROLES[role] in line["message"]


def test_the_event_log_is_set_by_one_object() -> None:
    text = '{"overflow": "Wait", "keep": {"low": {"age": "1h30m", "sizeMiB": 2}}}'
    events = Settings.read({"SEEDBED_EVENTS": text}).events.settings(True)
    assert (events.overflow, events.buffered, events.governs) == ("Wait", 100_000, True)
    assert events.low == Limits(5400.0, 2 * 1024 * 1024)
    assert events.normal == EventSettings().normal
    for wrong, where in (
        ("{", "SEEDBED_EVENTS"),
        ('{"overflow": "Spill"}', "SEEDBED_EVENTS.overflow"),
        ('{"keep": {"low": {"age": "soon", "sizeMiB": 2}}}', "SEEDBED_EVENTS.keep.low.age"),
    ):
        with pytest.raises(InvalidError) as caught:
            Settings.read({"SEEDBED_EVENTS": wrong})
        assert caught.value.field == where
