"""What is said of expressions that are wrong, in plain words."""

from __future__ import annotations

import re

_SYNTAX = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")
_UNEXPECTED = re.compile(r"(?:mismatched|extraneous) input (.*?) expecting|at(?: input)?:? (.*)$")


def syntax(text: str, message: str) -> str:
    """The library's first complaint in plain words."""
    complaints = [*_SYNTAX.finditer(message)]
    if not complaints:
        return f"`{short(text)}` is not a CEL expression"
    # "Incomplete" tells of the parser's inside; another complaint tells of the text.
    found = next((each for each in complaints if "Incomplete" not in each[3]), complaints[0])
    line, column, complaint = int(found[1]), int(found[2]), found[3]
    if "Incomplete" in complaint:
        complaint = "it ends too early, after what begins"
    unexpected = _UNEXPECTED.search(complaint)
    if unexpected is not None and not complaint.startswith("missing"):
        sign = (unexpected[1] or unexpected[2]).strip()
        complaint = "it ends too early" if "<EOF>" in sign else f"unexpected {sign}"
    place = f"column {column}" if line == 1 else f"line {line}, column {column}"
    return f"`{short(text)}` is not a CEL expression: {complaint} at {place}"


def short(text: str, limit: int = 80) -> str:
    """The text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def reason(error: Exception) -> str:
    """Why an evaluation failed."""
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r}"
    message = str(error)
    if message.startswith("Undefined variable or function"):
        name = message.split("'")[1]
        return f"{name}() does not take such values"
    return re.split(r"\. (?:Check|CEL does|Convert) ", message, maxsplit=1)[0].rstrip(".")
