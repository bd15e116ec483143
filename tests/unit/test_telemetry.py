"""Logs that programs can read and that give no secret away; health pages."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.runtime.telemetry.health import serving_health
from seedbed.runtime.telemetry.logs import REDACTED, JsonFormatter, configure, redacted
from tests.conftest import run_async


class Output:
    """What was written to standard output since the last look."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.text = ""

    def read(self) -> str:
        self.text += self._capture.readouterr().out
        return self.text

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.read().splitlines()]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """Standard output, with the logging of the tests put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Output(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.req("COG-S7.3")
def test_every_logger_writes_json_lines(output: Output) -> None:
    logging.getLogger("uvicorn").addHandler(
        logging.StreamHandler(sys.stdout)
    )  # as uvicorn itself does
    configure("engine", "debug")
    logging.getLogger("seedbed.test").info("run %s\nstarted", "r-1", extra={"run": "r-1", "n": 3})
    for name in ("kopf", "uvicorn", "uvicorn.error", "aiohttp.server", "nats", "some.library"):
        logging.getLogger(name).warning("from %s", name)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("seedbed.test").exception("failed", extra={"what": object, "k": {1: "x"}})
    first, *foreign, warned, failed = output.lines()
    assert first["message"] == "run r-1\nstarted"
    assert (first["level"], first["service"], first["run"], first["n"]) == (
        "info",
        "engine",
        "r-1",
        3,
    )
    assert first["time"].endswith("+00:00")
    assert [one["logger"] for one in foreign][:2] == ["kopf", "uvicorn"]
    assert len(foreign) == 6
    assert "DeprecationWarning" in warned["message"]
    assert "ZeroDivisionError" in failed["exception"]
    assert failed["k"] == {"1": "x"}


def test_an_extra_never_replaces_a_field(output: Output) -> None:
    configure("api")
    logging.getLogger("a").warning(
        "said", extra={"service": "other", "level": "x", "time": "never"}
    )
    (line,) = output.lines()
    assert (line["service"], line["level"]) == ("api", "warning")


def test_the_level_counts_and_a_wrong_one_is_named(output: Output) -> None:
    configure("api", "warning")
    logging.getLogger("a").info("hidden")
    assert not output.read()
    with pytest.raises(InvalidError, match="SEEDBED_LOG_LEVEL"):
        configure("api", "loud")


SECRET = "hunter2-ABCdef0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"postgresql://seedbed:{SECRET}@host/db",
        f"password={SECRET}",
        f'{{"api_key": "{SECRET}"}}',
        f"api-key: {SECRET}",
        f"token='{SECRET}'",
        "key sk-abcdefghijklmnop1234",
    ],
)
def test_secrets_in_texts_are_cut_out(text: str) -> None:
    cut = redacted(text)
    assert SECRET not in cut
    assert "sk-abc" not in cut
    assert REDACTED in cut


def test_secrets_never_reach_the_log(output: Output) -> None:
    for human in (False, True):
        configure("api", human=human)
        log = logging.getLogger("a")
        log.error("said %s", f"Bearer {SECRET}")
        log.error(
            "x", extra={"password": SECRET, "headers": {"X-Api-Key": SECRET, "a": [SECRET[:0]]}}
        )
        try:
            raise ValueError(f"postgresql://u:{SECRET}@h/d")
        except ValueError:
            log.exception("x")
    assert SECRET not in output.read()
    assert output.read().count(REDACTED) >= 6


def test_what_is_no_secret_stays() -> None:
    kept = {"token": 17, "max_tokens": 400, "message": "partition/3: token 7 is fenced off by 9"}
    assert redacted(kept) == kept
    assert redacted("token=17 and tokens: 300") == "token=17 and tokens: 300"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_anything_can_be_logged(value: object) -> None:
    record = logging.makeLogRecord({"msg": "said %s", "args": (value,), "value": value})
    assert json.loads(JsonFormatter("s").format(record))["service"] == "s"


def test_health_pages() -> None:
    async def body() -> None:
        registry = CollectorRegistry()
        Counter("seedbed_things", "Things.", registry=registry).inc()
        waits = ["the database"]
        async with (
            serving_health(lambda: waits[0], host="127.0.0.1", port=0, registry=registry) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        ):
            for page in ("/healthz", "/livez"):
                async with http.get(page) as answer:
                    assert answer.status == 200
            async with http.get("/readyz") as answer:
                assert answer.status == 503
                assert "the database" in await answer.text()
            waits[0] = ""
            async with http.get("/readyz") as answer:
                assert answer.status == 200
            async with http.get("/metrics") as answer:
                assert "seedbed_things_total 1.0" in await answer.text()
            with pytest.raises(UnavailableError, match=str(port)):
                async with serving_health(host="127.0.0.1", port=port):
                    pass

    run_async(body())
