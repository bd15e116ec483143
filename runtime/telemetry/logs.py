"""Structured logs: one JSON object a line on standard output, the same form in every service.

Each line has `time`, `level`, `logger`, `message` and `service`, and what the call gave as `extra`. On
a terminal people read short lines instead. Secrets are cut out of both: values under names that say
so, and what looks like one inside a text.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from seedbed.crds.errors import InvalidError

LEVELS = ("debug", "info", "warning", "error")
REDACTED = "[redacted]"

# Libraries that bring handlers of their own, or talk too much, with the level from which they count.
_LIBRARIES = {
    "LiteLLM": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.INFO,
    "httpx": logging.WARNING,
    "kopf": logging.INFO,
    "uvicorn": logging.INFO,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.INFO,
}
_SECRET_NAME = re.compile(
    r"(password|passwd|secret|token|authorization|credential|cookie|api[-_]?key|private[-_]?key)$",
    re.IGNORECASE,
)
_SECRET_TEXTS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {REDACTED}"),
    (re.compile(r"(://[^\s:/@]+:)[^\s@/]+@"), rf"\1{REDACTED}@"),
    (re.compile(r"\b(sk|pk|ghp|gho|xox[a-z])[-_][A-Za-z0-9_-]{16,}"), REDACTED),
    (
        re.compile(
            r"""(?ix)(pass(?:word|wd)|secret|token|authorization|api[-_]?key|private[-_]?key)
            (["']?\s*[=:]\s*["']?)(?!\d+\b)[^\s"',;}\]]{4,}"""
        ),
        rf"\1\2{REDACTED}",
    ),
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(service: str, level: str = "info", *, human: bool | None = None) -> None:
    """Send every log record of this process to standard output, in place of what was set up before.

    Args:
        service: name of the role, such as `engine`.
        level: one of LEVELS.
        human: short lines for people; by default where standard output is a terminal.

    Raises:
        InvalidError: where the level is none.
    """
    if level.lower() not in LEVELS:
        raise InvalidError("SEEDBED_LOG_LEVEL", f"expected one of {', '.join(LEVELS)}")
    for_people = sys.stdout.isatty() if human is None else human
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PlainFormatter() if for_people else JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _LIBRARIES.items():
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(least, root.level))
    logging.captureWarnings(capture=True)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            "service": self._service,
        }
        line |= {
            name: value for name, value in redacted(_extras(record)).items() if name not in line
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = redacted(self.formatStack(record.stack_info))
        options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        return orjson.dumps(line, default=_text_of, option=options).decode()


class PlainFormatter(logging.Formatter):
    """A record as a line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the traceback below where there is one."""
        clock = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        extras = "".join(f" {name}={value}" for name, value in redacted(_extras(record)).items())
        text = f"{clock} {record.levelname.lower():7} {redacted(record.getMessage())}{extras}"
        if record.exc_info:
            text += "\n" + str(redacted(self.formatException(record.exc_info)))
        return text


def redacted(value: Any) -> Any:
    """The value without secrets: the same type for texts, dictionaries and lists."""
    if isinstance(value, str):
        for pattern, instead in _SECRET_TEXTS:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, Mapping):
        return {name: _redacted_under(name, each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redacted(each) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redacted(_text_of(value))


def _redacted_under(name: Any, value: Any) -> Any:
    # Numbers under such a name are fencing tokens and token counts, no secrets.
    if _SECRET_NAME.search(str(name)) and isinstance(value, (str, bytes)) and value:
        return REDACTED
    return redacted(value)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  # a log line must come out whatever is in it
        return f"<{type(value).__name__}: {type(error).__name__}>"
