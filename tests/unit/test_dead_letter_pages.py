"""Events that could not be handled, as the API shows them: all but what they carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from seedbed.runtime.api.dead_letters import DeadLetterPages
from seedbed.runtime.bus.events import DeadLetter, Event, EventLog
from tests.api_service import serving_pages
from tests.conftest import run_async


class Letters:
    """One of them, which may be dealt with once."""

    def __init__(self) -> None:
        event = Event("team/run", "run.finished", 5.0, b"secret")
        self._held = [DeadLetter(event, "reports", 3, "it broke", 6.0, 1)]

    async def dead_letters(self, *, after: int, limit: int) -> list[DeadLetter]:
        return [each for each in self._held if each.number > after][:limit]

    async def replay(self, numbers: Sequence[int]) -> int:
        before = len(self._held)
        self._held = [each for each in self._held if each.number not in numbers]
        return before - len(self._held)

    discard = replay


def test_they_are_listed_and_dealt_with() -> None:
    async def body() -> None:
        pages = DeadLetterPages(cast("EventLog", Letters()))
        async with serving_pages(pages) as session:

            async def asked(method: str, path: str) -> tuple[int, Any]:
                async with session.request(method, path) as answer:
                    return answer.status, await answer.json()

            status, told = await asked("GET", "dead-letters")
            assert status == 200
            (letter,) = told["deadLetters"]
            assert (letter["number"], letter["reason"]) == (1, "it broke")
            assert letter["event"]["bytes"] == len(b"secret")
            assert "secret" not in str(letter)
            assert await asked("GET", "dead-letters?after=1") == (200, {"deadLetters": []})
            assert await asked("POST", "dead-letters/1/replay") == (200, {"done": 1})
            assert (await asked("DELETE", "dead-letters/1"))[0] == 404
            assert (await asked("DELETE", "dead-letters/x"))[0] == 400

    run_async(body())
