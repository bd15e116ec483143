"""Holds what the services of tests answer to what their descriptions say of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types

from seedbed.runtime.openapi import DOCUMENT, JSON, add_described

SERVICES = ("seedbed.runtime.api.app", "seedbed.runtime.llm.service", "tests.api_service")
PASSED_ON = {"Account", "Usage", "ChatAnswer", "ChatChoice", "TextAnswer", "VectorAnswer", "Vector"}
"""Forms that hold what providers say; in all others nothing may stand that is not described."""
_FIRST_ERROR = 400


def closed(form: Any) -> Any:
    """A form in which nothing may stand beside what it names."""
    if isinstance(form, list):
        return [closed(each) for each in form]
    if not isinstance(form, dict):
        return form
    found = {name: closed(value) for name, value in form.items()}
    is_ours = isinstance(found.get("properties"), dict) and "title" in found
    if is_ours and found["title"] not in PASSED_ON:
        found.setdefault("additionalProperties", False)
    return found


class Answers:
    """Looks at the answers of one application; `wrong` says what was not as described."""

    def __init__(self, app: web.Application, wrong: list[str]) -> None:
        self._app = app
        self._wrong = wrong
        self._document = cache(lambda: closed(app[DOCUMENT]()))

    async def look(self, request: web.Request, response: web.StreamResponse) -> None:
        """Before an answer is sent."""
        resource = request.match_info.route.resource
        if resource is None or response.content_type != JSON:
            return
        body = response.body if isinstance(response, web.Response) else None
        if not isinstance(body, bytes):
            return
        described = self._document()
        page = described["paths"][resource.canonical][request.method.lower()]["responses"]
        status = str(response.status)
        told = page.get(status) or (page["default"] if response.status >= _FIRST_ERROR else None)
        where = f"{request.method} {resource.canonical} {status}"
        if told is None:
            self._wrong.append(f"{where}: is not described")
            return
        form = {**told["content"][JSON]["schema"], "components": described["components"]}
        for error in Draft202012Validator(form).iter_errors(json.loads(body)):
            self._wrong.append(f"{where}: {error.json_path}: {error.message[:300]}")


@contextmanager
def held_to_descriptions() -> Iterator[list[str]]:
    """Answers of services that are made while the context is open are looked at; what is wrong with them."""
    wrong: list[str] = []

    def added(app: web.Application, *args: Any, **given: Any) -> None:
        add_described(app, *args, **given)
        app.on_response_prepare.append(Answers(app, wrong).look)

    modules = [sys.modules[name] for name in SERVICES if name in sys.modules]
    for module in modules:
        vars(module)["add_described"] = added
    try:
        yield wrong
    finally:
        for module in modules:
            vars(module)["add_described"] = add_described
