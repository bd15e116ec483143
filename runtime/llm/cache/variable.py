"""What of a request is template and what varies. Pure.

The template belongs to an entry's scope, where it must be equal; only what varies is embedded,
because a long template makes all its uses look alike. Two kinds of prompt say themselves which is
which: DSPy's (`[[ ## field ## ]]` before each value) and those with a tag around each value
(`<question>...</question>`). Of all others the whole last message of the user varies, and everything
before it is template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FIELD = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*\n", re.MULTILINE)
_TAG = re.compile(r"<([a-zA-Z][\w-]*)>(.*?)</\1>", re.DOTALL)
_TAIL = re.compile(r"\n\nRespond with the corresponding output fields.*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parts:
    """A prompt taken apart.

    Attributes:
        template: what must be equal, with `{name}` where a slot was.
        slots: what varies, by name; the name is empty where the prompt names none.
    """

    template: str
    slots: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """What is embedded: the values alone."""
        return "\n".join(value for _, value in self.slots)


def parts(message: str) -> Parts:
    """Take the last message of the user apart."""
    if _FIELD.search(message):
        return _fields(message)
    if _TAG.search(message):
        return _tags(message)
    return Parts("{}", (("", message.strip()),))


def _fields(message: str) -> Parts:
    tail = _TAIL.search(message)
    body = message[: tail.start()] if tail else message
    marks = list(_FIELD.finditer(body))
    ends = [mark.start() for mark in marks[1:]] + [len(body)]
    slots = tuple(
        (mark[1], body[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)
    )
    names = "\n".join(f"[[ ## {name} ## ]]\n{{{name}}}" for name, _ in slots)
    template = body[: marks[0].start()] + names + (tail[0] if tail else "")
    return Parts(template, slots)


def _tags(message: str) -> Parts:
    slots = tuple((name, value.strip()) for name, value in _TAG.findall(message))
    return Parts(_TAG.sub(r"<\1>{\1}</\1>", message), slots)
