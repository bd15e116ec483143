"""Describes HTTP routes in the form of OpenAPI 3.1: what is said once in the code is not said again.

A page's summary is the first line of its handler's docstring, what it takes is the pydantic form that it
reads, what it gives is the type of what it writes. `says` tells of a handler what none of them shows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, TypedDict, TypeVar, get_type_hints

import msgspec
import orjson
from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Json = dict[str, Any]
Handler = TypeVar("Handler", bound=Callable[..., Any])

PATH = "/openapi.json"
JSON = "application/json"
DOCUMENT: web.AppKey[Callable[[], Json]] = web.AppKey("document")
"""Makes an application's description."""
_SAID = "__says__"
_REFERENCE = "#/components/schemas/{model}"
_VARIABLE = re.compile(r"\{(\w+)(?::[^}]*)?\}")


@dataclass(frozen=True, slots=True)
class Said:
    """What a handler takes and gives.

    Attributes:
        body: the form of the request's body.
        takes: the body's media type; empty where there is no body.
        query: names in the request's query.
        status: of an answer that is none of an error.
        gives: that answer's media types.
        answers: type of the answer where it is JSON: a TypedDict, a struct or a dataclass.
        errors: likewise of errors that have a form of their own.
    """

    body: type[BaseModel] | None = None
    takes: str = ""
    query: tuple[str, ...] = ()
    status: int = 200
    gives: tuple[str, ...] = (JSON,)
    answers: Any = None
    errors: Any = None


class Nothing(TypedDict):
    """There is nothing to tell."""


def says(
    body: type[BaseModel] | None = None,
    *,
    takes: str = "",
    query: Sequence[str] = (),
    status: int = 200,
    gives: Sequence[str] = (JSON,),
    answers: Any = None,
    errors: Any = None,
) -> Callable[[Handler], Handler]:
    """Tell of a handler what `Said` holds; one with a form takes JSON."""
    taken = takes or (JSON if body else "")
    said = Said(body, taken, tuple(query), status, tuple(gives), answers, errors)

    def told(handler: Handler) -> Handler:
        setattr(handler, _SAID, said)
        return handler

    return told


def answer_of(function: Callable[..., Any]) -> Any:
    """The type that a function says it gives."""
    return get_type_hints(function)["return"]


def said_of(route: web.RouteDef) -> Said:
    """What is told of a route's handler."""
    found: Said = getattr(route.handler, _SAID, Said())
    return found


def document(
    title: str,
    routes: Iterable[web.RouteDef],
    *,
    error: type[BaseModel],
    public: Iterable[str] = (),
) -> Json:
    """The description of a service.

    Args:
        title: its name.
        routes: all of its pages.
        error: the form of its errors.
        public: paths that ask for no token.
    """
    shown = sorted(routes, key=lambda route: (route.path, route.method))
    forms = {said.body for route in shown if (said := said_of(route)).body is not None}
    places, definitions = models_json_schema(
        [(form, "validation") for form in sorted({*forms, error}, key=lambda form: form.__name__)],
        ref_template=_REFERENCE,
    )
    forms_given = (f for route in shown for f in (said_of(route).answers, said_of(route).errors))
    given = {repr(form): form for form in forms_given if form is not None}
    made, components = msgspec.json.schema_components(
        [given[name] for name in sorted(given)], ref_template="#/components/schemas/{name}"
    )
    taken = definitions.get("$defs", {})
    if twice := taken.keys() & components.keys():
        raise ValueError(f"two forms have the same name: {', '.join(sorted(twice))}")
    schemas: dict[Any, Any] = {form: schema for (form, _), schema in places.items()}
    schemas |= dict(zip(sorted(given), made, strict=True))
    paths: dict[str, Json] = {}
    for route in shown:
        path = _VARIABLE.sub(r"{\1}", route.path)
        told = _operation(route, path, schemas, schemas[error])
        if path in public:
            told["security"] = []
        paths.setdefault(path, {})[route.method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "v3"},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                name: _cleaned(form) for name, form in sorted({**taken, **components}.items())
            },
        },
    }


def add_described(
    app: web.Application,
    title: str,
    routes: Sequence[web.RouteDef],
    *,
    error: type[BaseModel],
    public: Iterable[str] = (),
) -> None:
    """Put routes into an application, and the page that describes them; see `document`."""

    async def described(_: web.Request) -> web.Response:
        """This description."""
        return web.Response(body=written(), content_type=JSON)

    shown = [*routes, web.get(PATH, described)]

    def made() -> Json:
        return document(title, shown, error=error, public=public)

    app[DOCUMENT] = made
    # It is made when somebody first asks.
    written = cache(lambda: orjson.dumps(made()))
    app.add_routes(shown)


def _operation(route: web.RouteDef, path: str, schemas: Mapping[Any, Any], error: Json) -> Json:
    said = said_of(route)
    failed = {"anyOf": [error, schemas[repr(said.errors)]]} if said.errors else error
    words = re.sub(r"\W+", "_", path).strip("_")
    told: Json = {
        "operationId": f"{route.method.lower()}_{words}",
        "summary": (inspect.getdoc(route.handler) or path).partition("\n")[0].rstrip("."),
        "responses": {
            str(said.status): {
                "description": HTTPStatus(said.status).phrase,
                "content": {form: _given(form, said, schemas) for form in said.gives},
            },
            "default": {"description": "An error", "content": {JSON: {"schema": failed}}},
        },
    }
    text = {"schema": {"type": "string"}}
    parameters = [
        *(
            {"name": name, "in": "path", "required": True, **text}
            for name in _VARIABLE.findall(path)
        ),
        *({"name": name, "in": "query", **text} for name in said.query),
    ]
    if parameters:
        told["parameters"] = parameters
    if said.takes:
        form = {"schema": schemas[said.body]} if said.body else {}
        told["requestBody"] = {"required": said.body is not None, "content": {said.takes: form}}
    return told


def _given(form: str, said: Said, schemas: Mapping[Any, Any]) -> Json:
    if form != JSON:
        return {"schema": {"type": "string"}}
    return {"schema": schemas[repr(said.answers)] if said.answers else {"type": "object"}}


def _cleaned(form: Json) -> Json:
    """A form with the first paragraph of its description, as a docstring's others are for readers of code."""
    told = form.get("description")
    return {**form, "description": told.partition("\n\n")[0]} if told else form
