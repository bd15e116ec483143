"""What the guard of the semantic cache refuses, and what it lets through."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.bench import agent_prompts
from seedbed.runtime.llm.cache.facts import facts
from seedbed.runtime.llm.cache.guard import difference
from seedbed.runtime.llm.cache.variable import parts

REFUSED = [
    ("number", "Refund order 4711 for Anna Weber.", "Refund order 4712 for Anna Weber."),
    ("number", "Meet Anna on 2026-03-14.", "Meet Anna on March 15, 2026."),
    ("number", "Deploy version 1.2.3 of auth.", "Deploy version 1.3.2 of auth."),
    ("number", "Point a.example.com to the shop.", "Point b.example.com to the shop."),
    ("negation", "Restart the pod.", "Do not restart the pod."),
    ("negation", "Ship all orders.", "Ship all orders except the first."),
    (
        "negation",
        "Subscribe Anna to the newsletter.",
        "Subscribe Anna to everything but the newsletter.",
    ),
    ("bound", "Words of at most five letters", "Words of at least five letters"),
    ("unit", "Remind me in 5 minutes.", "Remind me in 5 hours."),
    ("status", "List the open tickets.", "List the closed tickets."),
    ("place of work", "Deploy auth to staging.", "Deploy auth to production."),
    ("weekday", "Call Anna on Monday.", "Call Anna on Tuesday."),
    ("language", "Translate it into German.", "Translate it into French."),
    ("month", "The revenue in June", "The revenue in July"),
    ("opposite", "Grant Anna access to the table.", "Revoke the access of Anna to the table."),
    ("opposite", "Page me if errors rise above 5%.", "Page me if errors fall below 5%."),
    ("question", "Who wrote the report?", "When was the report written?"),
    ("question or order", "Deploy auth to the cluster.", "Is auth deployed to the cluster?"),
    ("name", "Tell Jonas Keller the news.", "Tell Maria Silva the news."),
    ("name", "Tell Jonas Keller the news.", "tell maria silva the news."),
    ("part", "Move $5 from Anna to Jonas.", "Move $5 from Jonas to Anna."),
    ("part", "Is tea cheaper than coffee?", "Is coffee cheaper than tea?"),
]
LET_THROUGH = [
    ("Meet Anna on 2026-03-14.", "On March 14, 2026, meet Anna."),
    ("Write three sentences.", "Write 3 sentences."),
    ("Pay $1,200 to Acme.", "Pay 1200 dollars to Acme."),
    ("A discount of 5%", "A discount of 5 percent"),
    ("Move $5 from Anna to Jonas.", "Take $5 from Anna and give it to Jonas."),
    ("Deploy auth to staging.", "Could you deploy auth to staging?"),
    ("How do I lose weight?", "What is the best way to lose weight?"),
    ("Send it no later than 2026-01-02.", "Send it by 2026-01-02."),
    ("Tell Jonas Keller the news.", "tell jonas keller the news"),
]


@pytest.mark.req("COG-5.1.1")
@pytest.mark.parametrize(("kind", "one", "other"), REFUSED)
def test_a_changed_fact_is_refused_by_name_and_in_both_directions(
    kind: str, one: str, other: str
) -> None:
    assert difference(facts(one), facts(other)) == kind
    assert difference(facts(other), facts(one)) == kind


@pytest.mark.parametrize(("one", "other"), LET_THROUGH)
def test_the_same_facts_in_another_form_pass(one: str, other: str) -> None:
    assert difference(facts(one), facts(other)) is None


@given(st.text(alphabet=string.printable + "äé€₹中", max_size=80))
def test_every_prompt_agrees_with_itself(text: str) -> None:
    assert difference(facts(text), facts(text)) is None


WORDS = st.sampled_from(
    (
        "Anna",
        "Jonas",
        "5",
        "7%",
        "$12",
        "not",
        "from",
        "to",
        "above",
        "below",
        "open",
        "closed",
        "who",
    )
)


@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=8))
def test_the_guard_is_symmetric(one: list[str], other: list[str]) -> None:
    mine, theirs = facts(" ".join(one)), facts(" ".join(other))
    assert difference(mine, theirs) == difference(theirs, mine)


@pytest.mark.req("COG-5.1.1")
def test_no_generated_prompt_with_another_id_date_or_amount_passes() -> None:
    kinds = {f"other {kind}" for kind in ("id", "date", "money", "percent", "version", "time")}
    pairs = [p for p in agent_prompts.pairs(3, 1500, training=False) if p.kind in kinds]
    assert len(pairs) > 100
    assert [p for p in pairs if difference(facts(p.a), facts(p.b)) is None] == []


def test_generated_prompts_are_seeded_and_their_templates_held_out() -> None:
    one = list(agent_prompts.pairs(5, 200, training=True))
    assert one == list(agent_prompts.pairs(5, 200, training=True))
    other = {p.template for p in agent_prompts.pairs(5, 800, training=False)}
    assert not other & {p.template for p in one}


def test_slots_leave_the_template() -> None:
    found = parts("[[ ## question ## ]]\nWhy is it slow?\n\n[[ ## table ## ]]\norders")
    assert found.slots == (("question", "Why is it slow?"), ("table", "orders"))
    assert "slow" not in found.template
    assert found.text == "Why is it slow?\norders"


def test_a_prompt_in_tags_is_taken_apart() -> None:
    found = parts("Answer briefly.\n<question>Why is it slow?</question>")
    assert found.slots == (("question", "Why is it slow?"),)
    assert found.template == "Answer briefly.\n<question>{question}</question>"
    assert parts("Why is it slow? ").slots == (("", "Why is it slow?"),)
