"""Pairs of prompts as agents write them, drawn by a seed: the same said otherwise, or nearly the same.

True pairs: two wordings of one template with equal slots; some with a date, a number or an amount
written in another form, a polite opening, other case, a typing error. Hard negatives: one slot has
another value of its kind (ids differ in one digit), two slots have changed places, or a wording says
something else (negated, turned round, another question or unit).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from hack.bench.agent_templates import TEMPLATES, Template

_SLOT = re.compile(r"\{(\w+)(?::(\d))?\}")
_WORD = re.compile(r"[a-z]{5,}")
_CHOICES = {
    "person": "Anna Weber|Jonas Keller|Maria Silva|Tom Becker|Aisha Khan|Li Wei|Peter Novak|Sara Lund|"
    "Omar Haddad|Julia Rossi|Ken Sato|Eva Braun-Hill|Paul Martin|Nina Petrova|David Cohen|Grace Osei",
    "city": "Berlin|Hamburg|Paris|Lyon|Madrid|Lisbon|Vienna|Zurich|Oslo|Dublin|Boston|Chicago|Osaka|Mumbai",
    "company": "Acme|Globex|Initech|Umbrella|Hooli|Northwind|Contoso|Fabrikam|Vandelay|Soylent|Wayne Ltd",
    "team": "billing|platform|search|checkout|identity|mobile|data|support|security",
    "status": "open|closed|pending|blocked|resolved|rejected|approved|archived|active|inactive",
    "env": "production|staging|development|testing|eu-west|us-east",
    "service": "payments|gateway|catalogue|inventory|frontend|mailer|scheduler|indexer|auth|ledger",
    "table": "orders|customers|invoices|payments|sessions|shipments|products|refunds|events|users",
    "column": "created_at|customer_id|email|country|total_price|parse_date|load_user|amount|sku",
    "language": "English|German|French|Spanish|Italian|Polish|Japanese|Portuguese|Dutch",
    "code": "Python|Go|Rust|Java|TypeScript|Kotlin|Ruby|C++",
    "product": "desk lamp|office chair|coffee machine|laptop stand|water filter|headset|bike helmet|kettle",
    "month": "January|February|March|April|May|June|July|August|September|October|November|December",
    "topic": "photosynthesis|inflation|recursion|vaccines|black holes|solar power|cloud storage|remote work",
    "domain": "shop.example.com|api.example.com|mail.example.org|docs.example.net|cdn.example.com",
}
_OPENINGS = ("Please: ", "Hi, ", "Hello. ", "Quick one: ", "Could you help? ", "As discussed, ")
_SMALL = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_MONTHS = _CHOICES["month"].split("|")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts; `kind` says how they were made."""

    a: str
    b: str
    duplicate: bool
    kind: str
    template: str


def for_training(template: str) -> bool:
    """Whether a template may be fitted on; the other half is only for figures."""
    return hashlib.sha256(template.encode()).digest()[0] % 2 == 0


def pairs(seed: int, count: int, *, training: bool) -> Iterator[Pair]:
    """So many pairs of templates of one half: half of them true, half hard negatives."""
    draw = random.Random(f"{seed}-{training}")
    templates = [each for each in TEMPLATES if for_training(each.name) == training]
    for number in range(count):
        template = draw.choice(templates)
        yield _same(draw, template) if number % 2 else _other(draw, template)


def _same(draw: random.Random, template: Template) -> Pair:
    values = _values(draw, template)
    if draw.random() < 0.8:
        one, other = draw.sample(template.ways, 2)
        kind = "reworded"
    else:
        one = other = draw.choice(template.ways)
        kind = "surface"
    second = _filled(other, values, draw)
    if kind == "surface" or draw.random() < 0.3:
        second = _surface(draw, second, values)
    return Pair(_filled(one, values), second, duplicate=True, kind=kind, template=template.name)


def _other(draw: random.Random, template: Template) -> Pair:
    values = _values(draw, template)
    one = draw.choice(template.ways)
    chance = draw.random()
    twins = [slot for slot in values if slot.endswith(":1")]
    if chance < 0.35:
        kind, changed, other = "otherwise", values, draw.choice(template.otherwise)
        one = template.ways[0] if draw.random() < 0.7 else one
    elif chance < 0.5 and twins:
        slot = draw.choice(twins)
        twin = slot[:-1] + "2"
        kind, other = "swapped", one if draw.random() < 0.7 else draw.choice(template.ways)
        changed = {**values, slot: values[twin], twin: values[slot]}
    else:
        slot = draw.choice(list(values))
        kind = "other " + slot.split(":")[0]
        other = one if draw.random() < 0.7 else draw.choice(template.ways)
        changed = {**values, slot: _another(draw, slot.split(":")[0], set(values.values()))}
    second = _filled(other, changed)
    if draw.random() < 0.15:
        second = _surface(draw, second, changed)
    return Pair(_filled(one, values), second, duplicate=False, kind=kind, template=template.name)


def _values(draw: random.Random, template: Template) -> dict[str, str]:
    values: dict[str, str] = {}
    for match in _SLOT.finditer(template.ways[0]):
        values[match[0][1:-1]] = _another(draw, match[1], set(values.values()))
    return values


def _another(draw: random.Random, kind: str, taken: set[str]) -> str:
    while True:
        value = _value(draw, kind)
        numbers = [each for each in sorted(taken) if kind == "id" and each.isdigit()]
        if numbers and draw.random() < 0.7:
            old = numbers[0]
            place = draw.randrange(len(old))
            value = old[:place] + draw.choice("123456789") + old[place + 1 :]
        if value not in taken:
            return value


def _value(draw: random.Random, kind: str) -> str:
    if kind in _CHOICES:
        return draw.choice(_CHOICES[kind].split("|"))
    return {
        "id": lambda: str(draw.randrange(1000, 99999)),
        "small": lambda: str(draw.randrange(2, 13)),
        "count": lambda: str(draw.randrange(15, 900)),
        "minutes": lambda: str(draw.randrange(5, 95, 5)),
        "percent": lambda: f"{draw.randrange(1, 60)}%",
        "money": lambda: f"${draw.randrange(50, 9000):,}",
        "time": lambda: f"{draw.randrange(6, 22):02d}:{draw.choice(('00', '15', '30', '45'))}",
        "date": lambda: str(date(2026, 1, 1) + timedelta(days=draw.randrange(365))),
        "year": lambda: str(draw.randrange(2019, 2027)),
        "version": lambda: f"{draw.randrange(1, 6)}.{draw.randrange(0, 20)}.{draw.randrange(0, 9)}",
    }[kind]()


def _filled(wording: str, values: Mapping[str, str], draw: random.Random | None = None) -> str:
    def fill(match: re.Match[str]) -> str:
        value = values[match[0][1:-1]]
        if draw is not None and draw.random() < 0.15:
            return _in_other_form(match[1], value)
        return value

    return _SLOT.sub(fill, wording)


def _in_other_form(kind: str, value: str) -> str:
    """The same value, written otherwise."""
    if kind == "date":
        day = date.fromisoformat(value)
        return f"{_MONTHS[day.month - 1]} {day.day}, {day.year}"
    if kind == "small":
        return _SMALL.split("|")[int(value)]
    if kind == "percent":
        return value[:-1] + " percent"
    if kind == "money":
        return value[1:].replace(",", "") + " dollars"
    return value


def _surface(draw: random.Random, text: str, values: Mapping[str, str]) -> str:
    """The same words, written with less or other care."""
    what = draw.randrange(4)
    if what == 0:
        return draw.choice(_OPENINGS) + text[0].lower() + text[1:]
    if what == 1:
        return text.lower()
    if what == 2:
        return text.rstrip(".?") + draw.choice((" !", "", "  ", "?" if text.endswith("?") else "."))
    said = " ".join(values.values()).lower()
    words = [each for each in _WORD.finditer(text) if each[0] not in said]
    if not words:
        return text + " Thanks!"
    word = draw.choice(words)
    place = word.start() + draw.randrange(1, len(word[0]) - 2)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def intents(seed: int, count: int) -> Iterator[tuple[str, ...]]:
    """So many different requests of unseen templates, each in all its wordings."""
    draw = random.Random(f"{seed}-intents")
    templates = [each for each in TEMPLATES if not for_training(each.name)]
    for number in range(count):
        template = templates[number % len(templates)]
        values = _values(draw, template)
        yield tuple(_filled(way, values) for way in template.ways)
