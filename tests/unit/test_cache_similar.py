"""How the semantic cache finds, judges and learns."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from seedbed.runtime.cpus import cpus
from seedbed.runtime.llm.cache.embedder import Embedded, EmbeddingService, MiniLm
from seedbed.runtime.llm.cache.evidence import Evidence, expected
from seedbed.runtime.llm.cache.features import features, prompt
from seedbed.runtime.llm.cache.index import Index
from seedbed.runtime.llm.cache.proof import Proof
from seedbed.runtime.llm.cache.similar import ENOUGH, Accepted, Candidate, Similar
from seedbed.runtime.llm.cache.threshold import Learnt, Outcome, judged, placed, proven_wrong
from seedbed.runtime.llm.cache.verifier import verifier
from tests.conftest import run_async

QUESTIONS = (
    "How do I lose weight?",
    "What is the capital of France?",
    "Restart the pod payments-4711 because it is out of memory.",
    "Write a unit test in Python for the function parse_date.",
)


@cache
def model() -> MiniLm:
    return MiniLm()


def embedded(text: str) -> Embedded:
    return model().embed([text])[0]


def filled(*texts: str) -> Similar:
    similar = Similar()
    for text in texts:
        similar.add(text, embedded(text))
    return similar


def units(count: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, 384)).astype(np.float32)
    scaled: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def test_texts_are_embedded_alike_alone_and_in_company() -> None:
    long = "word " * 400
    together = model().embed([QUESTIONS[0], long, QUESTIONS[1]])
    assert together[0].text == QUESTIONS[0]
    assert float(together[0].vector @ embedded(QUESTIONS[0]).vector) > 0.999
    assert abs(float(np.linalg.norm(together[1].vector)) - 1) < 1e-5
    assert together[1].truncated
    assert not together[0].truncated
    assert len(together[0].states) == len(together[0].tokens)


def test_the_model_computes_with_two_threads_at_most_and_numpy_beside_it_with_one() -> None:
    assert model().threads == min(2, cpus())
    assert MiniLm(1).threads == 1
    blas = [each for each in threadpool_info() if each["user_api"] == "blas"]
    assert blas
    assert {each["num_threads"] for each in blas} == {1}


def test_an_embedded_text_outlives_the_process() -> None:
    one = embedded(QUESTIONS[0])
    back = Embedded.unpacked(one.text, one.packed())
    assert np.array_equal(back.vector, one.vector)
    assert np.array_equal(back.states, one.states)
    assert np.array_equal(back.tokens, one.tokens)


def test_the_service_answers_in_order() -> None:
    async def body() -> None:
        async with EmbeddingService() as service:
            assert await service.embed([]) == []
            found = await service.embed(QUESTIONS)
            assert [each.text for each in found] == list(QUESTIONS)

    run_async(body())


@given(st.integers(1, 60), st.integers(1, 8), st.lists(st.integers(0, 59), max_size=20))
@settings(max_examples=30, deadline=None)
def test_the_exact_index_finds_what_comparing_all_finds(
    count: int, wanted: int, removed: list[int]
) -> None:
    rows, index = units(count), Index()
    for key, row in enumerate(rows):
        index.add(key, row)
    for key in removed:
        index.remove(key)
    left = [key for key in range(count) if key not in removed]
    assert len(index) == len(left)
    query = units(1, seed=9)[0]
    best = sorted(left, key=lambda key: -float(rows[key] @ query))[:wanted]
    assert [key for key, _ in index.nearest(query, wanted)] == best


def test_a_large_index_finds_its_vectors_and_forgets_removed_ones() -> None:
    rows, index = units(600), Index(exact_up_to=500)
    for key, row in enumerate(rows):
        index.add(key, row)
    found = [index.nearest(row, 1)[0][0] for row in rows]
    assert np.mean(np.array(found) == np.arange(600)) > 0.98
    index.remove(7)
    assert 7 not in index
    assert index.nearest(rows[7], 1)[0][0] != 7


@pytest.mark.req("COG-5.1.1")
@pytest.mark.parametrize("text", QUESTIONS)
def test_a_prompt_is_served_from_its_own_entry(text: str) -> None:
    found = filled(*QUESTIONS).look(embedded(text.lower().rstrip(".?") + " "))
    assert found is not None
    assert (found.id, found.serve, found.reason) == (text, True, "same words")


def test_an_empty_scope_has_no_candidate() -> None:
    similar = filled(QUESTIONS[0])
    similar.remove(QUESTIONS[0])
    assert similar.look(embedded(QUESTIONS[0])) is None


@pytest.mark.req("COG-5.1.1")
def test_another_id_is_never_served_however_alike() -> None:
    similar = filled("Restart the pod payments-4711 because it is out of memory.")
    found = similar.look(embedded("Restart the pod payments-4712 because it is out of memory."))
    assert found is not None
    assert found.similarity > 0.95
    assert (found.serve, found.reason) == (False, "guard: number")


def test_something_else_is_not_served() -> None:
    found = filled(*QUESTIONS).look(embedded("Who painted the Mona Lisa?"))
    assert found is not None
    assert not found.serve


@pytest.mark.req("COG-5.1.1")
def test_what_was_proven_wrong_is_not_served_again_not_even_after_a_restart() -> None:
    similar = filled(QUESTIONS[0])
    asked = embedded("how do i lose weight")
    found = similar.look(asked)
    assert found is not None
    assert found.serve
    learnt = similar.learn(found, correct=False)
    again = similar.look(asked)
    assert again is not None
    assert (again.serve, again.reason) == (False, "proven wrong")
    restarted = Similar()
    restarted.add(QUESTIONS[0], embedded(QUESTIONS[0]), Learnt.load(learnt.dump()))
    after = restarted.look(asked)
    assert after is not None
    assert not after.serve


@given(
    st.lists(st.tuples(st.floats(-8, 8), st.booleans()), max_size=40),
    st.floats(-8, 8),
)
def test_a_wrong_outcome_outlasts_all_right_ones(
    outcomes: list[tuple[float, bool]], score: float
) -> None:
    learnt = Learnt().having(Outcome(0.9, score, correct=False))
    for each, correct in outcomes:
        learnt = learnt.having(Outcome(0.9, each, correct=correct or each < score))
    assert proven_wrong(learnt, score)
    assert not proven_wrong(Learnt(), score)


@given(st.lists(st.floats(-3, 6), min_size=1, max_size=16), st.floats(-3, 6))
def test_right_outcomes_never_lower_an_entry_and_wrong_ones_never_raise_it(
    scores: list[float], score: float
) -> None:
    right = Learnt(tuple(Outcome(0.9, each, correct=True) for each in scores))
    wrong = Learnt(tuple(Outcome(0.9, each, correct=False) for each in scores))
    assert judged(wrong, score) < score < judged(right, score)


def test_an_outcome_remembers_the_place_of_the_other_prompt() -> None:
    row = units(1)[0]
    assert float(Outcome(0.9, 1.0, True, placed(row)).vector() @ row) > 0.999


def test_evidence_counts_around_its_places_only_and_can_be_forgotten() -> None:
    evidence, rows = Evidence(), units(2)
    for owner in range(5):
        evidence.add(owner, rows[0], 0.9, correct=True)
    rings = len(evidence.around(rows[0])) // 3
    assert evidence.around(rows[0])[0] == 5
    assert evidence.around(rows[0])[rings] == pytest.approx(5 * (1 - expected(0.9)))
    assert evidence.around(rows[1])[0] == 0
    for owner in range(5):
        evidence.forget(owner)
    assert len(evidence) == 0


def test_features_are_symmetric_and_finite() -> None:
    rare = verifier().rarities
    read = [prompt(embedded(text), rare) for text in (*QUESTIONS, "?", "")]
    for one in read:
        for other in read:
            row = features(one, other)
            assert np.isfinite(row).all()
            assert np.allclose(row, features(other, one), atol=1e-5)


def test_what_is_proven_around_the_kept_prompt_counts_as_well() -> None:
    asked, kept = "How can I lose weight quickly?", "What is a fast way to lose weight?"
    place = embedded(kept).vector

    def score(evidence: Evidence) -> float:
        similar = Similar(evidence=evidence)
        similar.add(kept, embedded(kept))
        found = similar.look(embedded(asked))
        assert found is not None
        return found.score

    def after(count: int, *, correct: bool) -> float:
        evidence = Evidence()
        for owner in range(count):
            evidence.add(-1 - owner, place, 0.8, correct=correct)
        return score(evidence)

    assert after(ENOUGH, correct=True) > after(ENOUGH, correct=False)
    assert after(9, correct=False) == score(Evidence())


KEPT, SAID = (
    "How do I reset the password of my account?",
    "How can I reset my account's password?",
)


def seen(similar: Similar, text: str) -> Candidate:
    found = similar.look(embedded(text))
    assert found is not None
    return found


def loose(proof: Proof) -> Similar:
    similar = Similar(Accepted(per_lookup=0.5, per_hit=0.5), proof=proof)
    similar.add(KEPT, embedded(KEPT))
    return similar


@pytest.mark.req("COG-5.1.1")
def test_similar_prompts_are_served_once_enough_hits_were_right() -> None:
    proof = Proof(0.5)
    similar = loose(proof)
    reasons = []
    while not (found := seen(similar, SAID)).serve:
        assert found.hit
        reasons.append(found.reason)
        similar.learn(found, correct=True)
    assert reasons == ["unproven"] * 6
    assert found.reason == "alike"
    for _ in range(20):
        proof.add(correct=False)
    assert not seen(similar, SAID).serve, "what turns out wrong is asked again"


@pytest.mark.req("COG-5.1.1")
def test_what_entries_have_taught_proves_after_a_restart_too() -> None:
    similar = loose(Proof(0.5))
    found = seen(similar, SAID)
    for _ in range(12):
        learnt = similar.learn(found, correct=True)
    restarted = Similar(Accepted(per_lookup=0.5, per_hit=0.5))
    restarted.add(KEPT, embedded(KEPT), Learnt.load(learnt.dump()))
    assert seen(restarted, SAID).serve


@given(st.integers(0, 400), st.sampled_from([0.01, 0.02, 0.1]))
def test_a_proof_needs_more_the_less_is_accepted_and_more_after_a_wrong_one(
    rights: int, accepted: float
) -> None:
    one, marred, stricter = Proof(accepted), Proof(accepted), Proof(accepted / 2)
    marred.add(correct=False)
    for _ in range(rights):
        for each in (one, marred, stricter):
            each.add(correct=True)
    assert one.holds >= marred.holds
    assert one.holds >= stricter.holds
    assert Proof(accepted, needed=False).holds
    assert not Proof(accepted).holds


def test_a_proof_that_is_wrong_is_rare() -> None:
    """Of namespaces in which just more than the accepted share is wrong few are ever served."""
    draw, served = np.random.default_rng(5), 0
    for _ in range(200):
        proof = Proof(0.05)
        for right in draw.random(600) >= 0.05:
            proof.add(correct=bool(right))
            if proof.holds:
                served += 1
                break
    assert served <= 30


def test_other_facts_are_outweighed_by_what_was_proven_around_but_numbers_never_are() -> None:
    kept = "What do you think of the ban of 500 rupee notes?"
    other = "What do you think about Modi's ban of 500 rupee notes?"
    number = "What do you think of the ban of 100 rupee notes?"
    place = embedded(kept).vector

    def reason(text: str, *, correct: bool) -> str:
        evidence = Evidence()
        for owner in range(ENOUGH):
            evidence.add(-1 - owner, place, 0.8, correct=correct)
        similar = Similar(Accepted(per_lookup=0.3, per_hit=0.3), evidence)
        similar.add(kept, embedded(kept))
        found = similar.look(embedded(text))
        assert found is not None
        return found.reason

    assert reason(other, correct=True) == "learnt"
    assert reason(other, correct=False) != "learnt"
    assert reason(number, correct=True) == "guard: number"


def test_who_accepts_fewer_wrong_answers_is_served_less() -> None:
    for forest in (verifier().alone, verifier().near):
        bars = [forest.bar(wrong) for wrong in (0.001, 0.01, 0.02, 0.05, 0.1)]
        assert bars == sorted(bars, reverse=True)
        assert bars[0] == float("inf")
    assert Similar(Accepted(per_lookup=0.001, per_hit=0.02)).wrong == pytest.approx(0.002)
