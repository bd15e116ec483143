"""Texts in other languages are never taken for similar: what turns their meaning is not known."""

from __future__ import annotations

import pytest

from seedbed.runtime.llm.cache.alike import scope_of
from seedbed.runtime.llm.cache.facts import facts
from seedbed.runtime.llm.cache.guard import difference
from seedbed.runtime.llm.cache.tongue import is_english
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest

# Pairs that ask for different things, by one small word.
OTHERS = {
    "German": [
        ("Darf ich den Vertrag kündigen?", "Darf ich den Vertrag nicht kündigen?"),
        ("Welche Pilze sind essbar?", "Welche Pilze sind nicht essbar?"),
        ("Wie komme ich mit Visum nach Kanada?", "Wie komme ich ohne Visum nach Kanada?"),
        ("Was esse ich vor dem Sport?", "Was esse ich nach dem Sport?"),
        ("Zeige alle offenen Rechnungen", "Zeige keine offenen Rechnungen"),
        ("Warum ist mein Konto gesperrt?", "Warum ist mein Konto entsperrt?"),
    ],
    "French": [
        ("Quels champignons sont comestibles ?", "Quels champignons ne sont pas comestibles ?"),
        ("Comment entrer au Canada avec visa ?", "Comment entrer au Canada sans visa ?"),
        ("Que manger avant le sport ?", "Que manger après le sport ?"),
        ("Puis-je résilier mon contrat ?", "Puis-je ne pas résilier mon contrat ?"),
        ("Affiche les factures payées", "Affiche les factures impayées"),
        ("Pourquoi mon compte est-il bloqué ?", "Pourquoi mon compte est-il débloqué ?"),
    ],
    "Spanish": [
        ("¿Qué setas son comestibles?", "¿Qué setas no son comestibles?"),
        ("¿Cómo entro en Canadá con visado?", "¿Cómo entro en Canadá sin visado?"),
        ("¿Qué como antes del deporte?", "¿Qué como después del deporte?"),
        ("¿Puedo cancelar el contrato?", "¿No puedo cancelar el contrato?"),
        ("Muestra las facturas pagadas", "Muestra las facturas impagadas"),
        ("¿Por qué está bloqueada mi cuenta?", "¿Por qué está desbloqueada mi cuenta?"),
    ],
    "Chinese": [
        ("哪些蘑菇可以吃?", "哪些蘑菇不可以吃?"),
        ("我可以取消合同吗?", "我不可以取消合同吗?"),
        ("运动前吃什么?", "运动后吃什么?"),
        ("有签证怎么去加拿大?", "没有签证怎么去加拿大?"),
        ("显示所有已付的发票", "显示所有未付的发票"),
        ("为什么我的账户被锁定?", "为什么我的账户被解锁?"),
    ],
    "others": [
        ("Posso cancelar o meu contrato?", "Não posso cancelar o meu contrato?"),
        ("Quali funghi sono commestibili?", "Quali funghi non sono commestibili?"),
        ("Welke paddenstoelen zijn eetbaar?", "Welke paddenstoelen zijn niet eetbaar?"),
        ("Какие грибы съедобны?", "Какие грибы не съедобны?"),
        ("契約を解約できますか?", "契約を解約できませんか?"),
        ("هل يمكنني إلغاء العقد؟", "لماذا لا يمكنني إلغاء العقد؟"),
    ],
}
ENGLISH = [
    "How do I cancel my contract?",
    "reset password",
    "Weather in Rio de Janeiro, please",
    "What does the German word Schadenfreude mean?",
    "How do you say thank you in Chinese (谢谢)?",
    "Who was Charles de Gaulle and why did he leave?",
    "Summarise: total 400 EUR, due on 2026-03-01",
    "kubectl get pods -n team-a",
    "Is the café in Zürich open on Sunday?",
    "42",
]
ALL = [pair for pairs in OTHERS.values() for pair in pairs]


def scope(text: str) -> tuple[str, str] | None:
    asked = ChatRequest(model="m", messages=(ChatMessage(role="user", content=text),))
    return scope_of("team", "m", asked)


@pytest.mark.req("COG-5.1.1")
@pytest.mark.parametrize("pair", ALL, ids=lambda pair: pair[1])
def test_texts_in_other_languages_are_only_equal(pair: tuple[str, str]) -> None:
    assert None in [scope(text) for text in pair], "neither serves the other's answer"


def test_hardly_any_of_them_passes_for_english() -> None:
    taken = [text for pair in ALL for text in pair if is_english(text)]
    assert taken == ["Zeige alle offenen Rechnungen"], "it has no small word"


@pytest.mark.req("COG-5.1.1")
@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_still_compared(text: str) -> None:
    assert is_english(text)
    assert scope(text) is not None


def test_the_guard_alone_would_let_them_through() -> None:
    let_through = [one for one, other in ALL if difference(facts(one), facts(other)) is None]
    assert len(let_through) >= len(ALL) // 2
