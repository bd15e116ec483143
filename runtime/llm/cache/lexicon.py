"""Words that the guard knows: closed classes, numbers, units, negations. Data only; opposites stand apart."""

from __future__ import annotations

from collections.abc import Mapping


def _words(text: str) -> list[str]:
    return text.split()


def _table(text: str) -> Mapping[str, str]:
    """Each word to the first of its line."""
    found: dict[str, str] = {}
    for line in text.strip().splitlines():
        words = line.split()
        found.update(dict.fromkeys(words, words[0]))
    return found


_SMALL = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
NUMBERS = {word: str(value) for value, word in enumerate(_SMALL)} | {
    word: str(10 * value) for value, word in enumerate(_TENS, 2)
}
"""Numbers written out; `one` is left out where it is a pronoun, which the guard decides."""

MONTHS = {
    word: number
    for number, words in enumerate(
        (
            "january jan",
            "february feb",
            "march mar",
            "april apr",
            "may",
            "june jun",
            "july jul",
            "august aug",
            "september sept sep",
            "october oct",
            "november nov",
            "december dec",
        ),
        1,
    )
    for word in words.split()
}

UNITS = _table(
    """
    second seconds sec secs
    minute minutes min mins
    hour hours hr hrs hourly
    day days daily
    week weeks weekly
    month months monthly
    quarter quarters quarterly
    year years yearly annual annually
    kilometre kilometres kilometer kilometers km kms
    metre metres meter meters
    centimetre centimetres centimeter centimeters cm
    mile miles
    inch inches
    kilogram kilograms kg kgs
    gram grams
    pound pounds lb lbs
    ounce ounces oz
    litre litres liter liters
    celsius
    fahrenheit
    byte bytes
    kb kilobyte kilobytes
    mb megabyte megabytes
    gb gigabyte gigabytes
    tb terabyte terabytes
    dollar dollars usd $
    euro euros eur €
    rupee rupees inr rs
    yen jpy
    gbp £
    percent % percentage
    sentence sentences
    paragraph paragraphs
    word words
    line lines
    page pages
    letter letters character characters
    digit digits
    """
)
"""Units; prompts that name different ones ask for different things."""

CLASSES: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("unit", UNITS),
    (
        "status",
        _table(
            """
            open opened
            closed close
            pending
            blocked
            resolved
            rejected
            approved
            archived
            active
            inactive
            cancelled canceled
            paused
            urgent
            overdue
            unpaid
            """
        ),
    ),
    (
        "place of work",
        _table(
            """
            production prod
            staging
            testing
            development dev
            sandbox
            """
        ),
    ),
    (
        "weekday",
        _table(
            """
            monday mon
            tuesday tue tues
            wednesday
            thursday thu thurs
            friday fri
            saturday
            sunday
            today
            tomorrow
            yesterday
            weekend weekends
            """
        ),
    ),
    (
        "language",
        _table(
            """
            english
            german
            french
            spanish
            italian
            polish
            portuguese
            dutch
            russian
            chinese mandarin
            japanese
            korean
            arabic
            hindi
            tamil
            telugu
            python
            java
            javascript js
            typescript
            rust
            golang
            kotlin
            ruby
            php
            c++ cpp
            c#
            swift
            scala
            perl
            """
        ),
    ),
    (
        "person",
        _table(
            """
            man men male males guy guys boy boys boyfriend husband father dad son brother
            woman women female females girl girls girlfriend wife mother mom daughter sister
            """
        ),
    ),
    (
        "month",
        _table(
            """
            january jan
            february feb
            april apr
            june jun
            july jul
            august aug
            september sept sep
            october oct
            november nov
            december dec
            """
        ),
    ),
    (
        "colour",
        _table(
            """
            red
            green
            blue
            yellow
            black
            white
            orange
            purple
            brown
            """
        ),
    ),
)
"""Words of which a prompt names some; others of the same class mean something else."""

DENIALS = frozenset(_words("not no never except cannot neither nor nobody nothing none excluding"))
"""What turns a statement into another; every word that ends in n't as well."""
RESERVATIONS = frozenset(_words("without unless stop avoid instead hardly"))
"""What may turn it, or be another way to say the same."""
NEGATIONS = DENIALS | RESERVATIONS

QUESTIONS = {
    "who": "who",
    "whom": "who",
    "whose": "who",
    "when": "when",
    "where": "where",
    "why": "why",
}
"""Question words that ask for one kind of thing; what, which and how can ask for any."""

STATES = frozenset(
    _words(
        "is are was were do does did has have had can could should will would am isn't aren't don't "
        "doesn't didn't may must"
    )
)
"""First words of a question that is answered by yes or no."""

ROLES = _table(
    """
    from out away
    to into onto
    by
    with
    for
    in
    on
    at
    before until till ahead
    after since
    above over exceeds exceed
    below under
    """
)
"""Words that say which part the name or number behind them plays."""

THAN = _table(
    """
    above more greater higher larger longer warmer
    below less fewer lower smaller shorter cheaper colder
    """
)
"""What `than` means behind these."""

TURNED = (("before", "after"), ("by", "after"), ("above", "below"), ("from", "to"))
"""Parts that turn a prompt round where the same name or number plays the other one."""

SMALL_WORDS = frozenset(
    _words(
        "a an the of in on at is are was were be been being am do does did has have had i me my mine we us "
        "our you your he him his she her it its they them their this that these those there here and or "
        "but if so as to for from by with into onto than then too very just also can could would will "
        "should shall may might must what which who whom whose when where why how please what's how's "
        "some any all each every about up"
    )
)
"""Words that carry no fact of their own."""
