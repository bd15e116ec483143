"""What a prompt states: numbers, dates, names, units, negations, who plays which part. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from seedbed.runtime.llm.cache.lexicon import (
    CLASSES,
    DENIALS,
    MONTHS,
    NEGATIONS,
    NUMBERS,
    QUESTIONS,
    ROLES,
    SMALL_WORDS,
    STATES,
    THAN,
    UNITS,
)

_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_DATES = (
    re.compile(
        rf"\b(?P<m>{_MONTH})\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y>\d{{4}})\b", re.IGNORECASE
    ),
    re.compile(
        rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<m>{_MONTH})\.?,? (?P<y>\d{{4}})\b",
        re.IGNORECASE,
    ),
)
_TOKEN = re.compile(
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?"  # 1,200.50
    r"|\w+(?:[._/@:+#-]+\w+)*(?:'[a-z]+)?(?:\+\+|#)?"
    r"|[%$€£]|[.?!:;\n]"
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([a-z]+)")
_AT_MOST = re.compile(
    r"\b(?:no|not|never|n't)\b(?: \w+){0,2} (?:more|higher|longer|warmer|over|above)\b(?: than)?"
)
_AT_LEAST = re.compile(
    r"\b(?:no|not|never|n't)\b(?: \w+){0,2} (?:less|fewer|lower|shorter|under|below)\b(?: than)?"
)
_NOT_LATER = re.compile(r"\b(?:no|not) later than\b")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_ID = re.compile(r"[_.@/]")
_COUNTED = re.compile(r"\b(?:how (?:many|much)|number of|count)\b")
_ALL_BUT = re.compile(r"\b(?:all|any\w*|every\w*)(?: \w+)? but\b")
_WHETHER = re.compile(r"\bwhether\b|\b(?:tell me|check|see|know) if\b")
_POLITE = frozenset({"you", "we", "somebody", "someone"})
_MODALS = frozenset({"can", "could", "would", "will"})
_STOPS = frozenset(".?!:;\n")
_FEW_UPPER = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What a prompt states.

    Attributes:
        words: every word in lower case, in order.
        content: those that carry a fact of their own.
        numbers: numbers, ids and dates, each in one form.
        names: words that are written like names, in lower case.
        opening: words at the beginning of a sentence, which may be names.
        shouted: whether nothing tells names from words, because all is in lower (or upper) case.
        classes: members of the closed classes that occur.
        roles: the parts that names, numbers and other words play.
        nexts: the word behind each number or name.
        order: numbers and names as they come.
        bounds: `at most` and `at least`.
        negated: whether any word turns what is said; denied: whether one does so for certain.
    """

    words: tuple[str, ...]
    content: frozenset[str]
    numbers: Counter[str]
    names: frozenset[str]
    opening: frozenset[str]
    shouted: bool
    classes: Mapping[str, frozenset[str]]
    roles: Mapping[str, frozenset[str]]
    nexts: Mapping[str, frozenset[str]]
    order: tuple[str, ...]
    bounds: frozenset[str]
    negated: bool
    denied: bool
    question: str
    whether: bool
    asks: bool


def facts(text: str) -> Facts:
    """Read a prompt."""
    text = text.replace("\u2019", "'")
    for form in _DATES:
        text = form.sub(_iso, text)
    lower = text.lower()
    text, bounds = _bounded(text, lower)
    tokens = [_Token.of(match[0]) for match in _TOKEN.finditer(text)]
    starts = _starts(tokens)
    said = list(_read(tokens))
    words = tuple(each for each, _ in said)
    letters = [each for each in tokens if each.raw[0].isalpha()]
    upper = [each for place, each in enumerate(tokens) if each.named and place not in starts]
    names = frozenset(each.word for each in upper) - SMALL_WORDS - frozenset(MONTHS)
    numbers = Counter(word for word, number in said if number)
    roles, nexts = _parts(words)
    kept = frozenset(names | set(numbers))
    return Facts(
        words=words,
        content=frozenset(words) - SMALL_WORDS - NEGATIONS,
        numbers=numbers,
        names=names,
        opening=frozenset(tokens[place].word for place in starts) - SMALL_WORDS,
        shouted=not upper or len(upper) > max(_FEW_UPPER, 0.7 * len(letters)),
        classes={
            kind: frozenset(table[word] for word in words if word in table)
            for kind, table in CLASSES
        },
        roles=roles,
        nexts=nexts,
        order=tuple(dict.fromkeys(word for word in words if word in kept)),
        bounds=bounds,
        negated=_negated(words, lower, NEGATIONS),
        denied=_negated(words, lower, DENIALS),
        question=_question(words, lower),
        whether=_asks_whether(tokens, starts, lower),
        asks="?" in text or words[:1] in (("what",), ("which",), ("how",)),
    )


@dataclass(frozen=True, slots=True)
class _Token:
    raw: str
    word: str
    named: bool

    @staticmethod
    def of(raw: str) -> _Token:
        bare = raw.removesuffix("'s")
        return _Token(raw, bare.lower(), named=bare[0].isupper() and (len(bare) > 1))


def _iso(match: re.Match[str]) -> str:
    return f"{match['y']}-{MONTHS[match['m'].lower()]:02d}-{int(match['d']):02d}"


def _bounded(text: str, lower: str) -> tuple[str, frozenset[str]]:
    """The text with `no more than` and the like as bounds, and the bounds."""
    text = re.sub(_NOT_LATER.pattern, "by", text, flags=re.IGNORECASE)
    text = re.sub(_AT_MOST.pattern, "at most", text, flags=re.IGNORECASE)
    text = re.sub(_AT_LEAST.pattern, "at least", text, flags=re.IGNORECASE)
    lower = text.lower()
    return text, frozenset(each for each in ("at most", "at least", "exactly") if each in lower)


def _starts(tokens: Sequence[_Token]) -> frozenset[int]:
    """Places of the first words of sentences."""
    return frozenset(
        place
        for place, each in enumerate(tokens)
        if each.raw not in _STOPS and (place == 0 or tokens[place - 1].raw in _STOPS)
    )


def _read(tokens: Sequence[_Token]) -> Iterator[tuple[str, bool]]:
    """Each word in one form, and whether it is a number or an id."""
    for each in tokens:
        word = each.word
        if word in _STOPS:
            continue
        if word in NUMBERS and word != "one":
            yield NUMBERS[word], True
        elif any(letter.isdigit() for letter in word):
            yield from _number(word)
        elif _ID.search(word):
            yield word, True
        else:
            yield from ((part, False) for part in word.split("-") if part)


def _number(word: str) -> Iterator[tuple[str, bool]]:
    """A word with digits: a number, one with its unit, or an id."""
    amount = _AMOUNT.fullmatch(word)
    plain = word.replace(",", "").lstrip("#")
    head, _, tail = plain.partition("-")
    if amount and amount[2] in UNITS:
        yield from ((amount[1], True), (amount[2], False))
    elif _ORDINAL.fullmatch(word):
        yield word[:-2], True
    elif head.isdigit() and tail.isalpha():
        yield from ((head, True), (tail, False))
    else:
        yield plain.removesuffix(".0"), True


def _parts(words: Sequence[str]) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """By role the words that play it, and by word those that come next."""
    roles: dict[str, set[str]] = {}
    nexts: dict[str, set[str]] = {}
    role = ""
    before = ""
    for place, word in enumerate(words):
        if word == "than" and place:
            role = THAN.get(words[place - 1], "than")
        elif word in ROLES:
            role = ROLES[word]
        elif word not in SMALL_WORDS:
            if role:
                roles.setdefault(role, set()).add(word)
            role = ""
        if before:
            nexts.setdefault(before, set()).add(word)
        before = word
    return (
        {key: frozenset(value) for key, value in roles.items()},
        {key: frozenset(value) for key, value in nexts.items()},
    )


def _negated(words: Sequence[str], lower: str, by: frozenset[str]) -> bool:
    return bool(_ALL_BUT.search(lower)) or any(word in by or word.endswith("n't") for word in words)


def _question(words: Sequence[str], lower: str) -> str:
    """What kind of thing is asked for: who, when, where, why, a count, or nothing so certain."""
    if _COUNTED.search(lower):
        return "count"
    for word in words[:2]:
        if word in QUESTIONS:
            return QUESTIONS[word]
    return ""


def _asks_whether(tokens: Sequence[_Token], starts: frozenset[int], lower: str) -> bool:
    for place in starts:
        word = tokens[place].word
        behind = tokens[place + 1].word if place + 1 < len(tokens) else ""
        if word in STATES and not (word in _MODALS and behind in _POLITE):
            return True
    return bool(_WHETHER.search(lower))
