"""Takes goals apart by asking a model, through the model service, for JSON of a fixed form.

One call carries several goals and asks for several levels of parts at once. An answer is a list of rows
`{"id", "parent", "text", "whole"}`: flat, so that a small model can be held to its form token by token,
and so that a parent is checked by one look. A row whose parent is neither a goal that was asked about nor
an earlier row is left out; so is one that repeats an id or its goal, or says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seedbed.crds.errors import RetryableError, TerminalError, UnavailableError
from seedbed.runtime.workflow.planning.goals.planner import Asked, Part

_ATTEMPTS = 3
_WAIT = 1.0
_LONGEST_WAIT = 10.0
"""Seconds before a service that refuses for now is asked again, where it names none, and at most."""
_MOST_ROWS = 400
_ABOVE = 3
"""Goals above the one asked about that the model is told: the whole goal and the nearest."""

_SYSTEM = (
    "You break goals into parts. For each goal of the list write the parts that together reach it, in "
    "the order in which they are done, and the parts of these parts, up to {levels} levels deep. "
    "Answer with one row for each part: `id` is a new number, `parent` the number of the goal or of the "
    "earlier row that it is a part of, `text` says in a few words what is to be done, `whole` is true "
    "where it is one piece of work that needs no further planning."
)


def _row_form(goals: int, levels: int) -> dict[str, Any]:
    """The JSON schema of a row. Where parts belong to the goals themselves, nothing else is a parent."""
    parent = (
        {"enum": list(range(1, goals + 1))} if levels == 1 else {"type": "integer", "minimum": 1}
    )
    return {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": goals + 1},
            "parent": parent,
            "text": {"type": "string", "minLength": 1, "maxLength": 200},
            "whole": {"type": "boolean"},
        },
        "required": ["id", "parent", "text", "whole"],
        "additionalProperties": False,
    }


class PlannerAnswerError(RetryableError):
    """A model's answer cannot be used, also after it was asked again.

    Attributes:
        model: its name.
    """

    code = "planner_answer_invalid"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r} did not give a usable plan: {reason}")
        self.model = model


class PlannerRefusedError(TerminalError):
    """The model service will not answer.

    Attributes:
        status: HTTP's.
    """

    code = "planner_refused"

    def __init__(self, model: str, status: int, reason: str) -> None:
        super().__init__(f"the model service refuses to ask {model!r}: {reason}")
        self.status = status


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: int
    parent: int
    text: str
    whole: bool = False


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    tasks: list[_Row] = Field(max_length=100_000)


class ModelPlanner:
    """A `Planner` on the model service.

    Args:
        session: its base address is the service's.
        model: name under which the service serves the model.
        levels: levels of parts that one answer may have.
        rows: parts that one answer may have.
        answer_tokens: longest answer; as the service decides where none is given.
    """

    costs_calls = True

    def __init__(
        self,
        session: aiohttp.ClientSession,
        model: str = "default",
        *,
        levels: int = 5,
        rows: int = _MOST_ROWS,
        answer_tokens: int | None = None,
    ) -> None:
        self._session = session
        self._model = model
        self._levels = levels
        self._rows = rows
        self._tokens = answer_tokens

    def __str__(self) -> str:
        return f"model {self._model}"

    def knows(self, asked: Asked) -> bool:
        """Every goal."""
        return bool(asked.text)

    async def apart(self, goals: Sequence[Asked], room: int) -> Sequence[Sequence[Part]]:
        """See `Planner`.

        Raises:
            PlannerAnswerError: no answer of several was of the form that was asked for.
            PlannerRefusedError: the service will not answer.
            UnavailableError: the service cannot be reached or refuses for now.
        """
        request = orjson.dumps(self.request(goals, min(room, self._rows)))
        wrong: RetryableError | None = None
        for _ in range(_ATTEMPTS):
            if isinstance(wrong, UnavailableError):
                await asyncio.sleep(min(wrong.retry_after or _WAIT, _LONGEST_WAIT))
            try:
                return self._read(await self._answer(request), goals)
            except RetryableError as error:
                # All calls of the tree would be made again, were this one the end of it.
                wrong = error
        assert wrong is not None
        raise wrong

    def _read(self, text: str, goals: Sequence[Asked]) -> Sequence[Sequence[Part]]:
        """The parts that an answer tells."""
        try:
            rows = _Answer.model_validate_json(text).tasks
        except ValidationError as error:
            reason = f"{error.errors()[0]['msg']} in {text[:80]!r}"
            raise PlannerAnswerError(self._model, reason) from error
        parts = _parts(rows, goals, nested=self._levels > 1)
        if rows and not any(parts):
            reason = "no row belongs to a goal that was asked about"
            raise PlannerAnswerError(self._model, reason)
        return parts

    def request(self, goals: Sequence[Asked], rows: int) -> dict[str, Any]:
        """What the model is asked about these goals, for at most so many rows."""
        listed = [
            {
                "id": number,
                "goal": asked.text,
                "partOf": [*asked.above[:1], *asked.above[1:][-_ABOVE:]],
            }
            for number, asked in enumerate(goals, start=1)
        ]
        # The goal itself is never one piece of work: nobody would have asked.
        least = min(rows, int(any(asked.level == 0 for asked in goals)))
        form = {"type": "array", "items": _row_form(len(goals), self._levels)}
        schema = {
            "type": "object",
            "properties": {"tasks": {**form, "minItems": least, "maxItems": rows}},
            "required": ["tasks"],
            "additionalProperties": False,
        }
        request: dict[str, Any] = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": _SYSTEM.format(levels=self._levels)},
                {"role": "user", "content": orjson.dumps({"goals": listed}).decode()},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "parts", "strict": True, "schema": schema},
            },
        }
        return request if self._tokens is None else {**request, "max_tokens": self._tokens}

    async def _answer(self, request: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                "/v1/chat/completions", data=request, headers=headers
            ) as http:
                body = await http.read()
                if not http.ok:
                    raise _refusal(self._model, http.status, body)
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"the model service cannot be reached: {reason}") from error
        try:
            return str(orjson.loads(body)["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError) as error:
            raise PlannerAnswerError(self._model, "the service's answer has no content") from error


def _parts(rows: Sequence[_Row], goals: Sequence[Asked], *, nested: bool) -> list[list[Part]]:
    """The parts of each goal; what one row belongs to stands before it."""
    found: list[list[Part]] = [[] for _ in goals]
    # For each number that may be a parent: the goal it belongs to, and its place there.
    places = {number: (number - 1, -1) for number in range(1, len(goals) + 1)}
    for row in rows:
        text = " ".join(row.text.split())
        if row.parent not in places or not text or (nested and row.id in places):
            continue
        goal, place = places[row.parent]
        if place < 0 and text.casefold() == goals[goal].text.casefold():
            continue
        if nested:
            places[row.id] = (goal, len(found[goal]))
        found[goal].append(Part(place, text, row.whole))
    return found


def _refusal(model: str, status: int, body: bytes) -> Exception:
    try:
        reason = str(orjson.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        reason = f"HTTP {status}"
    if status in (408, 429) or status >= 500:  # noqa: PLR2004  # HTTP's "later, perhaps"
        return UnavailableError(f"model {model!r}: {reason}")
    return PlannerRefusedError(model, status, reason)
