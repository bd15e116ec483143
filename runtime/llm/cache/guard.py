"""Facts that two prompts must share before likeness counts. Pure and symmetric.

Vectors hardly see what one other digit, name or `not` changes. So whatever two prompts state is read
out of them (`facts`) and compared one kind at a time. The guard only refuses: what it lets through is
still judged by the verifier.
"""

from __future__ import annotations

from seedbed.runtime.llm.cache.facts import Facts
from seedbed.runtime.llm.cache.lexicon import SMALL_WORDS, TURNED
from seedbed.runtime.llm.cache.opposites import OPPOSITES

WEIGHED = frozenset({"reservation", "question", "name"})
"""Kinds of facts that outcomes may outweigh: of some subjects people ask the same by several names."""
_ONE_SIDED = frozenset({"status", "place of work", "weekday", "language"})


def difference(one: Facts, other: Facts) -> str | None:
    """In which kind of fact two prompts differ, or None; one of `WEIGHED` where no other kind differs."""
    if one.words == other.words:
        return None
    return _certain(one, other) or _weighed(one, other)


def _certain(one: Facts, other: Facts) -> str | None:
    if one.numbers - other.numbers and other.numbers - one.numbers:
        return "number"
    if one.negated != other.negated and one.denied != other.denied:
        return "negation"
    if one.bounds != other.bounds and one.bounds and other.bounds:
        return "bound"
    for kind, found in one.classes.items():
        theirs = other.classes[kind]
        if found != theirs and ((found and theirs) or kind in _ONE_SIDED):
            return kind
    if _opposed(one, other):
        return "opposite"
    if (one.whether and not other.asks) or (other.whether and not one.asks):
        return "question or order"
    return "part" if _turned(one, other) else None


def _weighed(one: Facts, other: Facts) -> str | None:
    if one.negated != other.negated:
        return "reservation"
    if one.question and other.question and one.question != other.question:
        return "question"
    if _other_name(one, other) or _other_name(other, one):
        return "name"
    return None


def _opposed(one: Facts, other: Facts) -> bool:
    mine, theirs = one.content | set(one.words), other.content | set(other.words)
    only_mine, only_theirs = mine - theirs, theirs - mine
    for left, right in OPPOSITES:
        if only_mine & left and only_theirs & right and not (mine & right or theirs & left):
            return True
        if only_mine & right and only_theirs & left and not (mine & left or theirs & right):
            return True
    return False


def _other_name(one: Facts, other: Facts) -> bool:
    """Whether a name stands where the other prompt has another one."""
    missing = one.names - set(other.words)
    if not missing:
        return False
    theirs = other.content - set(one.words)
    instead = theirs if other.shouted else theirs & other.names
    return bool(instead)


def _turned(one: Facts, other: Facts) -> bool:
    """Whether names, numbers or words have changed parts."""
    both = (set(one.words) & set(other.words)) - SMALL_WORDS
    names = one.names | other.names

    def sort(word: str) -> str:
        return "number" if word in one.numbers else "name" if word in names else "word"

    for role in one.roles.keys() & other.roles.keys():
        mine, theirs = one.roles[role] & both, other.roles[role] & both
        if {sort(word) for word in mine - theirs} & {sort(word) for word in theirs - mine}:
            return True
    for left, right in TURNED:
        for first, second in ((one, other), (other, one)):
            mine = first.roles.get(left, frozenset()) - first.roles.get(right, frozenset())
            theirs = second.roles.get(right, frozenset()) - second.roles.get(left, frozenset())
            if mine & theirs:
                return True
    return _reordered(one, other)


def _reordered(one: Facts, other: Facts) -> bool:
    """Whether names or numbers come in another order, and nothing tells that they play the same part."""
    places = {word: place for place, word in enumerate(other.order)}
    shared = [word for word in one.order if word in places]
    for place, word in enumerate(shared):
        for later in shared[place + 1 :]:
            alike = (word in one.numbers) == (later in one.numbers)
            if (
                alike
                and places[later] < places[word]
                and not (_same_part(word, one, other) or _same_part(later, one, other))
            ):
                return True
    return False


def _same_part(word: str, one: Facts, other: Facts) -> bool:
    mine = {role for role, words in one.roles.items() if word in words}
    theirs = {role for role, words in other.roles.items() if word in words}
    if mine & theirs:
        return True
    if mine and theirs:
        return False
    behind = one.nexts.get(word, frozenset()) & other.nexts.get(word, frozenset())
    return bool(behind - SMALL_WORDS)
