"""The descriptions of our HTTP services: they are valid, and they say what the code does."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from typing import Any, NotRequired, TypedDict

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types
from openapi_spec_validator import validate

from hack.openapi import PLACE, documents
from seedbed.runtime.llm.endpoints import ENDPOINTS
from seedbed.runtime.openapi import PATH, said_of, says
from tests.api_service import serving_pages
from tests.conftest import run_async
from tests.described import held_to_descriptions
from tests.unit.test_gateway_targets import chat, one
from tests.unit.test_reference_pages import pages_of_the_api, routes

MADE = dict(documents())
MODELS = json.loads(MADE["models.json"])
READS = re.compile(r"query\.get\(\"(\w+)\"|_number\(request, \"(\w+)\"")
CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
ASKED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "x"}], "n": 2, "stream": True}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}], "seed": 1}),
    (EMBED, {"input": "x"}),
    (EMBED, {"input": ["x", "y"]}),
    (EMBED, {"input": [1, 2]}),
    (EMBED, {"input": [[1, 2], [3]], "dimensions": 8}),
    ("/v1/completions", {"prompt": "x", "echo": False}),
    ("/v1/completions", {"prompt": ["x", "y"], "n": 2}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "x"}], "n": 0}),
    (CHAT, {"messages": [], "model": "m"}),
    (EMBED, {"input": "x", "unknown": 1}),
    (EMBED, {"input": {}}),
    ("/v1/completions", {"prompt": [1, 2]}),
]


@pytest.mark.parametrize("name", MADE)
def test_a_description_is_valid_and_as_it_is_kept(name: str) -> None:
    validate(json.loads(MADE[name]))
    assert (PLACE / name).read_text() == MADE[name], "run python -m hack.openapi"


def test_every_route_of_the_api_is_described() -> None:
    paths = json.loads(MADE["api.json"])["paths"]
    told = {f"{method.upper()} {path}" for path, page in paths.items() for method in page}
    assert told == routes()


def test_every_name_in_a_query_is_described() -> None:
    for pages in pages_of_the_api():
        # What several pages share is read by functions beside them.
        read = {
            a or b
            for a, b in READS.findall(inspect.getsource(import_module(type(pages).__module__)))
        }
        made = [route for route in pages.routes() if isinstance(route, web.RouteDef)]
        assert {name for route in made for name in said_of(route).query} == read, type(pages)


@pytest.mark.parametrize("name", MADE)
def test_every_answer_has_a_form(name: str) -> None:
    for path, page in json.loads(MADE[name])["paths"].items():
        for told in page.values():
            for answer in told["responses"].values():
                form = answer["content"].get("application/json")
                assert path == PATH or form is None or form["schema"] != {"type": "object"}, path


class Animal(TypedDict):
    """What is told of an animal."""

    name: str
    legs: NotRequired[int]


@pytest.mark.parametrize(
    ("given", "status", "wrong"),
    [
        ({"name": "cow"}, 200, ""),
        ({"name": "cow", "legs": 4}, 200, ""),
        ({"name": 1}, 200, "$.name"),
        ({"legs": 4}, 200, "'name' is a required property"),
        ({"name": "cow", "horns": 2}, 200, "'horns' was unexpected"),
        ({"name": "cow"}, 201, "is not described"),
        ({"name": "cow"}, 400, "'error' is a required property"),
        ({"error": {"code": "c", "message": "m"}}, 500, ""),
    ],
)
def test_answers_of_tests_are_held_to_their_description(
    given: dict[str, Any], status: int, wrong: str
) -> None:
    class Farm:
        def routes(self) -> list[web.RouteDef]:
            return [web.get("/api/v3/farm/{name}", self.animal)]

        @says(answers=Animal)
        async def animal(self, _: web.Request) -> web.Response:
            return web.json_response(given, status=status)

    async def body() -> None:
        async with serving_pages(Farm()) as session, session.get("farm/cow") as answer:
            assert answer.status == status

    with held_to_descriptions() as found:
        run_async(body())
    assert bool(found) == bool(wrong)
    assert wrong in "".join(found)


def form_of(path: str) -> Draft202012Validator:
    content = MODELS["paths"][path]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": MODELS["components"]})


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_what_is_described_is_taken(path: str, body: dict[str, Any]) -> None:
    asked = {"model": "m", **body}
    form_of(path).validate(asked)
    ENDPOINTS[path].read_all(json.dumps(asked).encode())


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_what_is_refused_is_not_described(path: str, body: dict[str, Any]) -> None:
    assert not form_of(path).is_valid({"model": "m", **body})


def test_the_service_shows_its_own_and_its_errors_are_as_described() -> None:
    async def body() -> None:
        async with one() as (session, _):
            async with session.get(PATH) as answer:
                assert answer.status == 200
                shown = await answer.json()
            validate(shown)
            assert shown["info"] == MODELS["info"]
            assert shown["paths"][CHAT] == MODELS["paths"][CHAT]
            status, failure, _ = await chat(session, n=0)
            assert status == 400
            schema = {"$ref": "#/components/schemas/Failure", "components": shown["components"]}
            Draft202012Validator(schema).validate(failure)

    run_async(body())
