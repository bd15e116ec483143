"""What the engine and a process that evaluates expressions say to each other, over its pipes."""

from __future__ import annotations

from msgspec import Struct, msgpack

HEADER = 4
"""Bytes before each message: its length, the highest byte first."""

MEMORY = 512 * 1024 * 1024
"""Bytes of memory that one evaluation may take, beside what such a process has anyway."""
SECONDS = 30
"""Seconds of processor time that one evaluation may take."""
ANSWER = 8 * 1024 * 1024
"""Bytes that such an expression may give, as JSON."""


class Limits(Struct, frozen=True):
    """What one evaluation may take and give; see the constants of this module."""

    memory: int = MEMORY
    seconds: int = SECONDS
    answer: int = ANSWER

    def told(self, limit: str) -> str:
        """What is wrong with an expression that went beyond a limit, as the end of a sentence."""
        return {
            "time": f"it takes more than {self.seconds} s of processor time",
            "memory": f"it needs more than {self.memory // 2**20} MiB of memory",
            "result": f"it gives more than {self.answer // 2**20} MiB",
        }[limit]


class Asked(Struct, frozen=True, tag="asked"):
    """An expression, and what it reads as JSON, by the names of `Scope`."""

    text: str
    field: str
    read: bytes


class FlagAsked(Struct, frozen=True, tag="flag"):
    """The expression wants to know of a flag; a FlagTold is the answer."""

    name: str
    subject: str | None


class FlagTold(Struct, frozen=True, tag="told"):
    """Whether it is on."""

    on: bool


class Answer(Struct, frozen=True, tag="answer"):
    """What came out.

    Attributes:
        value: as JSON; None where there is none.
        wrong: why there is none, as the end of a sentence.
        limit: which limit it went beyond, or empty.
    """

    value: bytes | None = None
    wrong: str = ""
    limit: str = ""


Message = Asked | FlagAsked | FlagTold | Answer

_decoder: msgpack.Decoder[Message] = msgpack.Decoder(Message)


def packed(message: Message) -> bytes:
    """A message with its length before it."""
    body = msgpack.encode(message)
    return len(body).to_bytes(HEADER, "big") + body


def length_of(header: bytes) -> int:
    """Bytes of the message behind a header."""
    return int.from_bytes(header, "big")


def unpacked(body: bytes) -> Message:
    """A message without its length."""
    return _decoder.decode(body)
