"""Which kind of licence a text means: an SPDX expression, a trove classifier, or plain words.

Six kinds, from the one that asks least to the one that tells least: `public domain`, `permissive`,
`weak copyleft`, `copyleft`, `proprietary`, `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Kind = Literal["public domain", "permissive", "weak copyleft", "copyleft", "proprietary", "unknown"]
KINDS: tuple[Kind, ...] = (
    "public domain",
    "permissive",
    "weak copyleft",
    "copyleft",
    "proprietary",
    "unknown",
)

# The first pattern that a text holds decides, so the special stands before the general.
_LICENCES: tuple[tuple[str, Kind, str], ...] = (
    ("Business Source", "proprietary", r"busl|business source"),
    ("SSPL", "proprietary", r"sspl|server side public|elastic license"),
    ("proprietary", "proprietary", r"proprietary|commercial|closed.source|no license"),
    ("CC0", "public domain", r"cc0|creative commons zero"),
    ("Unlicense", "public domain", r"unlicense"),
    ("public domain", "public domain", r"public.domain"),
    ("0BSD", "permissive", r"0bsd|zero.clause"),
    ("LGPL", "weak copyleft", r"lgpl|lesser general|library general"),
    ("MPL", "weak copyleft", r"\bmpl|mozilla"),
    ("EPL", "weak copyleft", r"\bepl|eclipse"),
    ("CDDL", "weak copyleft", r"cddl|common development and distribution"),
    ("weak copyleft", "weak copyleft", r"(weak|file.level|limited).copyleft"),
    ("AGPL", "copyleft", r"agpl|affero"),
    ("GPL", "copyleft", r"\bgpl|general public"),
    ("EUPL", "copyleft", r"eupl|european union public"),
    ("OSL", "copyleft", r"\bosl\b|open software license"),
    ("CC-BY-SA", "copyleft", r"cc.by.sa|share.?alike"),
    ("copyleft", "copyleft", r"copyleft"),
    ("Apache", "permissive", r"apache"),
    ("BSD", "permissive", r"\bbsd"),
    ("MIT", "permissive", r"\bmit\b|\bx11\b|\bexpat\b"),
    ("ISC", "permissive", r"\bisc\b|\biscl\b"),
    ("PSF", "permissive", r"\bpsf|python software foundation|cnri|python.2"),
    ("Zlib", "permissive", r"zlib|libpng"),
    ("Boost", "permissive", r"boost|\bbsl\b"),
    ("HPND", "permissive", r"hpnd|historical permission"),
    ("Artistic", "permissive", r"artistic"),
    ("ZPL", "permissive", r"\bzpl|zope"),
    ("Unicode", "permissive", r"unicode"),
    ("BlueOak", "permissive", r"blue.?oak"),
    ("NCSA", "permissive", r"ncsa|illinois"),
    ("PostgreSQL", "permissive", r"postgresql"),
    ("CC-BY", "permissive", r"cc.by"),
    ("permissive", "permissive", r"permissive"),
)
_TABLE = tuple((name, kind, re.compile(pattern)) for name, kind, pattern in _LICENCES)
_SPDX_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9][A-Za-z0-9.+:-]*)")
_SPDX_WORDS = ("AND", "OR", "WITH")


def licence_name(text: str) -> str:
    """The well-known licence or family that a text names, such as `Apache`; empty for none."""
    return next((name for name, _, pattern in _TABLE if pattern.search(text.lower())), "")


def kind_of(text: str) -> Kind:
    """The kind of licence that an SPDX expression or plain words mean.

    In an expression, `OR` leaves the choice, so the one that asks least counts; with `AND` the one
    that asks most does. Of a long text only the first line counts: whole licences name others.
    """
    line = next((line for line in text.splitlines() if line.strip()), "")[:200]
    tokens = _SPDX_TOKEN.findall(line)
    if "".join(tokens) == "".join(line.split()):
        kind, rest = _choice(tokens)
        if not rest:
            return kind
    return _kind_of_words(line)


def kind_of_classifiers(classifiers: Iterable[str]) -> Kind:
    """The kind that trove classifiers mean; where several licences stand, the one that asks most.

    Classifiers cannot say whether two licences are a choice or both apply, hence the careful one.
    """
    names = [one.rsplit("::", 1)[-1] for one in classifiers if one.startswith("License ::")]
    kinds = [kind for kind in map(_kind_of_words, names) if kind != "unknown"]
    return max(kinds, key=KINDS.index, default="unknown")


def _kind_of_words(text: str) -> Kind:
    return next((kind for _, kind, pattern in _TABLE if pattern.search(text.lower())), "unknown")


def _choice(tokens: list[str]) -> tuple[Kind, list[str]]:
    """Reads `both (OR both)*`; returns its kind and the tokens behind it."""
    kind, rest = _both(tokens)
    while rest and rest[0] == "OR":
        other, rest = _both(rest[1:])
        kind = min(kind, other, key=KINDS.index)
    return kind, rest


def _both(tokens: list[str]) -> tuple[Kind, list[str]]:
    """Reads `one (AND one)*`."""
    kind, rest = _one(tokens)
    while rest and rest[0] == "AND":
        other, rest = _one(rest[1:])
        kind = max(kind, other, key=KINDS.index)
    return kind, rest


def _one(tokens: list[str]) -> tuple[Kind, list[str]]:
    """Reads `id [WITH exception]` or a bracket. What is neither is unknown and stays unread."""
    if tokens and tokens[0] == "(":
        kind, rest = _choice(tokens[1:])
        return (kind, rest[1:]) if rest and rest[0] == ")" else ("unknown", tokens)
    if not tokens or tokens[0] == ")" or tokens[0] in _SPDX_WORDS:
        return "unknown", tokens or [""]
    kind = _kind_of_words(tokens[0])
    if tokens[1:2] == ["WITH"] and len(tokens) > 2:
        # An exception for linking is what makes the GPL a weak copyleft.
        return ("weak copyleft" if kind == "copyleft" else kind), tokens[3:]
    return kind, tokens[1:]
