"""JSON schemas of strangers: checked in bounded time, and nothing is fetched for them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.schema_check import FIELD, check_schema, fault

MULTIPLIED: dict[str, Any] = {
    "$ref": "#/$defs/a0",
    "$defs": {
        **{f"a{at}": {"anyOf": [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(60)},
        "a60": {"type": "string"},
    },
}


@pytest.mark.req("DSX-16")
def test_a_schema_cannot_have_anything_fetched() -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        for schema in (
            {"$ref": f"{there}/a"},
            {"properties": {"a": {"$dynamicRef": f"{there}/b"}}},
            {"$id": f"{there}/c", "$ref": "#d"},
        ):
            with pytest.raises(InvalidError) as found:
                fault('{"a": 1}', schema)
            assert found.value.field == FIELD
        server.shutdown()
    assert asked == []


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "poem"}, "not valid"),
        ({"$ref": "#"}, "without end"),
        ({"$ref": "#/$defs/none"}, "not there"),
        ({"pattern": "("}, "missing"),
        ({"patternProperties": {"(a+)+$": {}}}, "patternProperties"),
        ({"title": "x" * 200_000}, "larger"),
        (MULTIPLIED, "takes more"),
    ],
)
def test_a_schema_that_cannot_be_held_to_is_told_of(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidError, match=told):
        fault("1", schema)


def test_a_pattern_has_no_more_time_than_the_check() -> None:
    # To search it without a limit would take years.
    with pytest.raises(InvalidError, match="takes more"):
        fault(f'"{"a" * 60}!"', {"pattern": "^(a|aa)+$"})


def test_what_fits_passes_and_what_does_not_is_told() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^[a-z]+$"}, "b": {"$ref": "#/$defs/b"}},
        "additionalProperties": False,
        "$defs": {"b": {"type": "integer"}},
    }
    check_schema(schema)
    assert fault('{"a": "x", "b": 1}', schema) == ""
    assert fault('{"a": "X"}', schema).startswith("$.a: ")
    assert fault('{"b": "1"}', schema).startswith("$.b: ")
    assert "no JSON" in fault("{", schema)
