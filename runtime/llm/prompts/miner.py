"""Finds templates in texts as they come by: which words are always the same, which differ. Pure.

A run of words that came in several texts is constant; what stands between such runs is a slot. Texts
whose constant runs are mostly the same belong to one pattern. Both are told by hashes of overlapping
runs, so that a slot may have any length and a text is read once: about one microsecond a word. How much
of a prompt is read is bounded, in words, in characters and in paragraphs, because everybody else waits
for it: a prompt of any length takes about a millisecond.

Texts are paragraphs: so passages that a prompt brings along are told from what is asked of them.
Numbers, ids and quoted values are slots from the first text on. Memory is bounded: runs and patterns
that were not seen for longest are forgotten.

The idea of telling templates from values while the texts stream by is Drain's (He et al., 2017), which
compares word by word and so needs slots of one word; the sketch of the smallest hashes that patterns
are compared by is Broder's (1997).
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

RUN = 4
"""Words of a run."""
SEEN = 3
"""Texts that a run came in, before it is constant."""
LONGEST = 1024
"""Words of a prompt that are read, without paragraphs that were the same before."""
PARAGRAPHS = 256
"""Paragraphs of a prompt that are looked at."""
_CHARACTERS = 16
"""Characters that a word has at most: of one text no more are taken apart than so many words have."""
_TEXTS = 20_000
"""Paragraphs that are remembered by what they say."""
_SKETCH = 24
_SAME = 0.5
"""Share of the sketch that texts of one pattern have in common at least."""
_SLOT = re.compile(
    r"^(?:[\"'`(\[{<]*)(?:[#$]?-?\d[\d.,:/%_-]*[a-zA-Z]{0,3}|[0-9a-fA-F-]{8,}|\S*@\S+|https?://\S+"
    r"|\S*\d\S*\d\S*)(?:[\"'`)\]}>.,;:!?]*)$"
)
_LONG = 64
"""Characters of a word from which on it is a value, whatever it is made of."""
_SHOWN = 2000


@dataclass(slots=True)
class Pattern:
    """What many texts have in common.

    Attributes:
        name: of 16 hexadecimal digits.
        count: texts of it so far.
        words: in all of them together.
        constant: of those, the words that are always the same.
        text: the newest text with `{}` for what differs, cut off where it is long.
    """

    name: str
    sketch: tuple[int, ...]
    count: int = 0
    words: int = 0
    constant: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """What is known of a text.

    Attributes:
        pattern: None as long as nothing in the text is known from others.
        prefix: words at its beginning that are always the same.
        constant: all words that are.
        words: of the text.
    """

    pattern: Pattern | None
    prefix: int
    constant: int
    words: int


_UNREAD = Match(None, 0, 0, 0)


@dataclass(slots=True)
class Miner:
    """The patterns of one namespace.

    Attributes:
        runs: that are remembered at most.
        most: patterns that are remembered at most.
    """

    runs: int = 50_000
    most: int = 2_000
    patterns: OrderedDict[str, Pattern] = field(default_factory=OrderedDict)
    _young: dict[int, int] = field(default_factory=dict)
    _old: dict[int, int] = field(default_factory=dict)
    _index: dict[int, str] = field(default_factory=dict)
    _texts: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _whole: dict[int, Match] = field(default_factory=dict)

    def read(self, texts: Iterable[str]) -> list[Match]:
        """Take the paragraphs of one prompt in; what is too much of it counts as not known."""
        left = LONGEST
        found: list[Match] = []
        for text in texts:
            if len(found) >= PARAGRAPHS:
                found.append(_UNREAD)
                continue
            name = hash(text)
            times = self._texts[name] = self._texts.pop(name, 0) + 1
            match = self._whole.get(name) if times > SEEN else None
            if match is None:
                match = self.learn(text, left) if left else _UNREAD
                left -= min(left, match.words)
                if times > SEEN:
                    words = _count(text)
                    match = self._whole[name] = Match(match.pattern, words, words, words)
            elif match.pattern is not None:
                match.pattern.count += 1
                match.pattern.words += match.words
                match.pattern.constant += match.words
            found.append(match)
        while len(self._texts) > _TEXTS:
            oldest, _ = self._texts.popitem(last=False)
            self._whole.pop(oldest, None)
        return found

    def learn(self, text: str, longest: int = LONGEST) -> Match:
        """Take a text in, and tell what it has in common with those before.

        Args:
            text: a paragraph.
            longest: words of it that are read.
        """
        words = text[: longest * _CHARACTERS].split(None, longest)[:longest]
        masked = _masked(words)
        runs = _runs(masked)
        known = self._counted(runs)
        same = _covered(known, masked)
        constant = sum(same)
        prefix = next((at for at, is_same in enumerate(same) if not is_same), len(same))
        if not constant:
            return Match(None, 0, 0, len(words))
        found = {run for run, is_known in zip(runs, known, strict=True) if is_known}
        pattern = self._pattern(tuple(heapq.nsmallest(_SKETCH, found)))
        pattern.count += 1
        pattern.words += len(words)
        pattern.constant += constant
        pattern.text = _shown(words, same)
        return Match(pattern, prefix, constant, len(words))

    def _counted(self, runs: Sequence[int]) -> list[bool]:
        """Count runs of a text; gives which of them were constant before.

        Counts live in two generations: what was not seen while one filled up is forgotten.
        """
        young, old = self._young, self._old
        times = {run: young.get(run) or old.get(run, 0) for run in runs}
        for run, count in times.items():
            young[run] = count + 1
        if len(young) > self.runs // 2:
            self._young, self._old = {}, young
        return [times[run] >= SEEN for run in runs]

    def is_constant(self, text: str) -> bool:
        """Whether a paragraph is the same as in others, to the letter; takes nothing in."""
        return self._texts.get(hash(text), 0) >= SEEN

    def _pattern(self, sketch: tuple[int, ...]) -> Pattern:
        near = Counter(self._index[run] for run in sketch if run in self._index)
        for name, hits in near.most_common(1):
            pattern = self.patterns[name]
            if hits >= _SAME * max(len(sketch), len(pattern.sketch)):
                self.patterns.move_to_end(name)
                self._know(pattern, sketch)
                return pattern
        name = blake2b(repr(sketch).encode(), digest_size=8).hexdigest()
        pattern = self.patterns.setdefault(name, Pattern(name, ()))
        self._know(pattern, sketch)
        while len(self.patterns) > self.most:
            _, oldest = self.patterns.popitem(last=False)
            self._forget(oldest)
        return pattern

    def _know(self, pattern: Pattern, sketch: tuple[int, ...]) -> None:
        """A pattern is told by its newest sketch: as more is known to be constant, it changes."""
        if sketch != pattern.sketch:
            self._forget(pattern)
            pattern.sketch = sketch
        for run in sketch:
            self._index.setdefault(run, pattern.name)

    def _forget(self, pattern: Pattern) -> None:
        for run in pattern.sketch:
            if self._index.get(run) == pattern.name:
                del self._index[run]


def _masked(words: list[str]) -> list[str]:
    return [
        "\0" if len(word) > _LONG or (not word.isalpha() and _SLOT.match(word)) else word
        for word in words
    ]


def _runs(words: list[str]) -> list[int]:
    """A number for each run of `RUN` words; one for all words where they are fewer."""
    if len(words) < RUN:
        return [hash(tuple(words))]
    return list(map(hash, zip(*(words[at:] for at in range(RUN)), strict=False)))


def _covered(known: list[bool], masked: list[str]) -> list[bool]:
    """Which words stand in a run that is known, and are no slots themselves."""
    same: list[bool] = []
    end = 0
    for at, word in enumerate(masked):
        if at < len(known) and known[at]:
            end = at + RUN
        same.append(at < end and word != "\0")
    return same


def _count(text: str) -> int:
    """The words of a text, at least: it is the same each time, so nobody takes it apart."""
    return text.count(" ") + text.count("\n") + text.count("\t") + 1


def _shown(words: list[str], same: list[bool]) -> str:
    parts: list[str] = []
    size = 0
    for word, is_same in zip(words, same, strict=True):
        part = word if is_same else "{}"
        if part == "{}" and parts and parts[-1] == "{}":
            continue
        parts.append(part)
        size += len(part) + 1
        if size > _SHOWN:
            break
    return " ".join(parts)
