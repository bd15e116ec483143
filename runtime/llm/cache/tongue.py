"""Whether a text is in English, which is all that the guard, the verifier and the embedder know. Pure.

What a text in another language states would be read past: `nicht`, `sans` and `不` turn nothing there. So
such texts are never taken for similar, only for equal. A text counts as English where nothing speaks
against it: where most of its letters are Latin ones, and small words of other languages are not more
than English ones.
"""

from __future__ import annotations

import re
import unicodedata

from seedbed.runtime.llm.cache.lexicon import SMALL_WORDS

_FOREIGN = (
    # German and Dutch
    "der das dem des ein eine einen einem einer eines und oder nicht kein keine keinen ist sind bin wird "
    "werden wurde kann können muss müssen soll ich du er wir ihr mein meine meinen dein sein mit für von "
    "vom zum zur auf aus bei nach über unter ohne wie wo wann warum wer wen welche welcher welches dass "
    "wenn bitte auch noch nur schon immer nie im beim ins sich mir dir uns "
    "het een niet geen wordt worden moet mijn jouw voor naar hoe waar wanneer waarom welke als ook nog "
    "zonder deze dit zijn ik jij wij jullie "
    # French
    "le la les un une du au aux et ou ne pas est suis être avoir peut puis dois doit je tu il elle nous "
    "vous ils elles mon ma mes ton ta tes sa ses avec pour sans dans sur sous par chez comment où quand "
    "pourquoi qui que quoi quel quelle quels quelles combien ce cette ces plus jamais aussi toujours dont "
    "qu en "
    # Spanish, Portuguese and Italian
    "el los las lo una unos unas del al es son soy ser estar está están puede puedo debe debo yo tú él "
    "ella nosotros usted ustedes mi mis su sus con para sin por sobre cómo como dónde cuándo qué quién "
    "cuál cuánto porque cuando donde pero más nunca también siempre te nos "
    "não os uma um dos da das ao à é são pode posso deve eu ele ela você meu minha seu sua com sem em na "
    "nas onde quem qual quanto mas mais "
    "gli uno della dello dei degli delle nel nella non sono può io lei noi voi loro mio mia suo senza "
    "tra dove perché chi che cosa quale anche de di è"
)
FOREIGN_WORDS = frozenset(_FOREIGN.split()) - SMALL_WORDS
"""Small words of German, Dutch, French, Spanish, Portuguese and Italian that are none in English."""
_WORD = re.compile(r"\w+")
_MOST_OTHER = 0.3
"""Share of letters that are not Latin, in an English text that is about some of another script."""
_SHORT = 5


def is_english(text: str) -> bool:
    """Whether nothing speaks against it."""
    words = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    strange = [word for word in words if not word.isascii()]
    other = sum(not _is_latin(letter) for word in strange for letter in word)
    if other > _MOST_OTHER * sum(map(len, words)):
        return False
    foreign = sum(word in FOREIGN_WORDS for word in words)
    english = sum(word in SMALL_WORDS for word in words)
    return foreign <= english if foreign > 1 or len(words) <= _SHORT else True


def _is_latin(letter: str) -> bool:
    return letter.isascii() or unicodedata.name(letter, "").startswith("LATIN")
