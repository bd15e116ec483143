"""What a text shows at a glance, as numbers that a predictor can weigh. Pure, and well under 1 ms.

Nothing here says whether a mark makes a task hard: that is learnt, for each model by itself, because
what one model stumbles over another does not. Marks never hold the text, so they can be kept and can
travel with an answer: one byte each, scaled so that usual values lie between -1 and 1.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from seedbed.crds.errors import InvalidError

Marks = NDArray[np.float32]

_LONGEST = 4000
"""Of a longer text the beginning and the end are read."""
_STEP = 32
"""Bytes hold values in steps of one thirty-second, from -4 to 4."""
_OPTION = re.compile(r"\n[ \t]*(?:\(?[A-H][.)]|[-*])[ \t]+")
_WORD = re.compile(r"[^\W\d_][\w']*")
_TAIL = re.compile(r"\n(?:answer|output|result)s?:?\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, taken apart once: the question, and the options where it offers some."""

    whole: str
    stem: str
    options: tuple[str, ...]
    words: tuple[str, ...]
    distinct: frozenset[str]
    option_words: tuple[frozenset[str], ...]


def _apart(text: str) -> _Text:
    if len(text) > _LONGEST:
        text = text[: _LONGEST // 2] + text[-_LONGEST // 2 :]
    body = _TAIL.sub("", text)
    stem, *options = _OPTION.split(body)
    words = tuple(_WORD.findall(stem))
    return _Text(
        body,
        stem,
        tuple(options),
        words,
        frozenset(word.lower() for word in words),
        tuple(frozenset(re.findall(r"\w+", option.lower())) for option in options),
    )


def _share(kind: str) -> Callable[[_Text], float]:
    """How much of a text is of a kind, a class of a regular expression."""
    found = re.compile(f"{kind}+")
    return lambda text: sum(map(len, found.findall(text.whole))) / max(1, len(text.whole))


def _log(count: float, usual: float) -> float:
    """A count on a scale where so many are 1."""
    return math.log1p(count) / math.log1p(usual)


def _matches(pattern: str, *, case: bool = False) -> Callable[[_Text], float]:
    found = re.compile(pattern, 0 if case else re.IGNORECASE)
    return lambda text: float(found.search(text.stem) is not None)


def _anywhere(pattern: str) -> Callable[[_Text], float]:
    found = re.compile(pattern, re.IGNORECASE)
    return lambda text: float(found.search(text.whole) is not None)


def _alike(text: _Text) -> list[float]:
    """How many words each two of the options share."""
    pairs = combinations(text.option_words[:8], 2)
    return [len(one & other) / max(1, len(one | other)) for one, other in pairs]


def _echo(text: _Text) -> list[float]:
    """How much of each option stands in the question."""
    return [len(words & text.distinct) / max(1, len(words)) for words in text.option_words]


def _lengths(text: _Text) -> list[int]:
    return [len(option) for option in text.options] or [0]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


_NUMERIC = re.compile(r"[^A-Za-z]*\d[^A-Za-z]*(?: ?[A-Za-z/%°]{0,8})?\.?")
_ONE_WORD = re.compile(r"(?:yes|no|true|false|not|wrong|right|increase|decrease)\b", re.IGNORECASE)
_LONG = 10
_DIGIT = re.compile(r"\d")
_DIGITS = _share(r"\d")
_UPPER = _share("[A-Z]")
_FOREIGN = _share(r"[^\x00-\x7f]")
_PUNCTUATION = _share(r"[^\w\s]")
_MATHS = re.compile(r"[=<>^∑∫√+*/|]|\\\w+")

_MARKS: dict[str, Callable[[_Text], float]] = {
    "length": lambda t: _log(len(t.whole), 1000),
    "question_length": lambda t: _log(len(t.stem), 1000),
    "sentences": lambda t: _log(len(re.findall(r"[.?!](?:\s|$)", t.stem)), 10),
    "lines": lambda t: _log(t.stem.count("\n"), 10),
    "word_length": lambda t: _mean([len(word) for word in t.words]) / 6,
    "long_words": lambda t: 3 * _mean([len(word) >= _LONG for word in t.words]),
    "variety": lambda t: len(t.distinct) / max(1, len(t.words)),
    "names": lambda t: 5 * len(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", t.stem)) / (len(t.words) + 1),
    "commas": lambda t: 8 * t.stem.count(",") / (len(t.words) + 1),
    "capitals": lambda t: 8 * _UPPER(t),
    "foreign": lambda t: 8 * _FOREIGN(t),
    "punctuation": lambda t: 8 * _PUNCTUATION(t),
    "digits": lambda t: _log(len(_DIGIT.findall(t.stem)), 20),
    "digit_share": lambda t: 5 * _DIGITS(t),
    "maths": lambda t: _log(len(_MATHS.findall(t.whole)), 20),
    "code": _anywhere(r"```|\b(?:def|class|return|while|import|SELECT)\b.{0,80}[(:;]|\w\(\)|\b0x"),
    "money": lambda t: float("$" in t.whole),
    "year": _anywhere(r"\b(?:1[5-9]|20)\d\d\b"),
    "quoted": lambda t: float('"' in t.whole or "“" in t.whole),
    "asks": lambda t: float(t.stem.rstrip().endswith("?")),
    "blank": lambda t: float("__" in t.stem),
    "which": _matches(r"which (?:one )?of the following"),
    "negated": _matches(r"\b(?:not|except|least|never|without|unless)\b"),
    "stressed": _matches(r"\b(?:NOT|EXCEPT|LEAST|ALWAYS|ONLY)\b", case=True),
    "supposes": _matches(r"\b(?:if|suppose|assume|given|unless)\b"),
    "superlative": _matches(r"\b(?:most|best|likely|primary|main)\b"),
    "why": _matches(r"\b(?:why|because|explain|reason|prove|justify|analy[sz]e|compare)\b"),
    "fact": _matches(r"\b(?:who|when|where|what year|name)\b"),
    "reckons": _matches(
        r"\b(?:calculate|compute|find|how many|how much|evaluate|solve|derive|probability)\b"
    ),
    "statements": _matches(r"\bstatements? (?:1|i|a)\b"),
    "steps": _matches(r"\b(?:step by step|first|then|finally|plan)\b"),
    "passage": _matches(r"\b(?:passage|following information|text below|article)\b"),
    "items": _anywhere(r"\b(?:I|II|III),? (?:and|only|II)\b"),
    "options": lambda t: len(t.options) / 4,
    "option_length": lambda t: _log(_mean(_lengths(t)), 100),
    "option_spread": lambda t: math.log1p(max(_lengths(t))) - math.log1p(min(_lengths(t))),
    "longest_first": lambda t: float(bool(t.options) and len(t.options[0]) == max(_lengths(t))),
    "options_alike": lambda t: _mean(_alike(t)),
    "most_alike": lambda t: max(_alike(t), default=0.0),
    "echo": lambda t: _mean(_echo(t)),
    "echo_spread": lambda t: max(_echo(t), default=0.0) - min(_echo(t), default=0.0),
    "numbers_to_choose": lambda t: _mean([bool(_NUMERIC.fullmatch(o)) for o in t.options]),
    "verdicts": lambda t: _mean([bool(_ONE_WORD.match(o)) for o in t.options]),
    "all_or_none": _anywhere(r"\b(?:all|none|both|neither)\b.{0,12}\b(?:above|of these)\b"),
}
NAMES = tuple(_MARKS)


def marks(text: str) -> Marks:
    """The marks of a text, in the order of `NAMES`, as they come back from `unpacked`."""
    found = _apart(text)
    return _rounded(np.array([mark(found) for mark in _MARKS.values()]))


def packed(found: Marks) -> str:
    """As short text, for a header or an answer."""
    return base64.urlsafe_b64encode(as_bytes(found)).decode()


def unpacked(text: str) -> Marks:
    """From `packed`.

    Raises:
        InvalidError: where it is not.
    """
    return from_bytes(sent(text))


def with_word(text: str, word: float) -> str:
    """`packed` marks, and what a model has said of its answer, from 0 to 1."""
    return base64.urlsafe_b64encode(sent(text)[: len(NAMES)] + bytes([round(100 * word)])).decode()


def sent(text: str) -> bytes:
    """What `packed` or `with_word` made, as it is kept.

    Raises:
        InvalidError: where it is not that.
    """
    try:
        found = base64.b64decode(text, altchars=b"-_", validate=True)
        from_bytes(found)
    except (binascii.Error, ValueError) as error:
        raise InvalidError("marks", "expected what the answer told as `marks`") from error
    return found


def word_in(data: bytes) -> float | None:
    """What a model has said of its answer, where that is there."""
    return data[-1] / 100 if len(data) > len(NAMES) else None


def as_bytes(found: Marks) -> bytes:
    """One byte each."""
    return (_rounded(found) * _STEP).astype(np.int8).tobytes()


def from_bytes(data: bytes) -> Marks:
    """From `as_bytes`, also where a model's word stands behind it.

    Raises:
        ValueError: where there are not as many as there should be.
    """
    if len(data) not in (len(NAMES), len(NAMES) + 1) or (word_in(data) or 0) > 1:
        raise ValueError(f"expected {len(NAMES)} marks, got {len(data)}")
    found: Marks = np.frombuffer(data[: len(NAMES)], np.int8).astype(np.float32) / np.float32(_STEP)
    return found


def _rounded(found: NDArray[np.floating]) -> Marks:
    rounded: Marks = (np.clip(np.rint(found * _STEP), -128, 127) / _STEP).astype(np.float32)
    return rounded
