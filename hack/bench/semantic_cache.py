"""The semantic cache: how often it serves a true duplicate, how often wrongly, and how fast.

    python hack/bench/semantic_cache.py [--data DIR] [--entries 1000000]

pairs          labelled real question pairs (`question_pairs.jsonl.gz` in DIR, by default in the folder
               shared/data beside the checkout). A hash splits them. 70 % are the shadow week, in which
               the cache serves nothing: every model is asked anyway, so it is known of every pair
               whether the kept answer would have been right, and the cache learns that. Of the other
               30 %, for each pair `a` is kept and `b` is asked: these are the figures. A hit is right
               where people labelled the pair a duplicate. Nothing is fitted here; the verifier was
               fitted on the 70 % of the default folder.
pairs_alone    the first 2,000 of the 30 % for a cache that has learnt nothing.
pairs_together all `a` of the first 2,000 are kept at once; what is served may be another pair's `a`, of
               which no label is known: that is counted apart.
agent_prompts  generated, of templates that were not fitted on: true paraphrases and hard negatives. After
               a shadow week too, of 10,000 other prompts of these templates; `hits_until_served` tells
               how many verified hits it took until similar requests were served at all.
agent_prompts_alone  the same for a cache that has learnt nothing.
workload       look-ups of agents' prompts whose intents repeat by Zipf's law (exponent 1, 500
               intents, 2,000 look-ups); half of the repetitions are word for word. The cache begins with
               nothing and asks its hits anyway until they are proof enough.
plain gate     in the same run: cosine of at least 0.95, nothing else.

Look-up times are of one prompt, its embedding included, in one thread: in a scope of 10,000 entries,
and in one of `--entries` (real vectors, each perturbed at random; the graph of int8 vectors), where the
candidates that are judged are real prompts. The texts' embeddings (four minutes on two cores) and the
large graph (minutes as well) are made once and kept in the user's cache folder. `lookup_p95_ms` is the
worse of the two. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.bench import agent_prompts
from hack.bench.question_pairs import (
    SEEN,
    Embeddings,
    QuestionPair,
    cache_folder,
    embeddings,
    question_pairs,
)
from seedbed.runtime.llm.cache.embedder import Embedded, MiniLm
from seedbed.runtime.llm.cache.evidence import Evidence
from seedbed.runtime.llm.cache.facts import facts
from seedbed.runtime.llm.cache.guard import difference
from seedbed.runtime.llm.cache.index import Index
from seedbed.runtime.llm.cache.proof import Proof
from seedbed.runtime.llm.cache.similar import NEAREST, Accepted, Similar

GATE = 0.95
SEED = 11
AGENT_PAIRS = 2000
INTENTS, LOOKUPS = 500, 2000
MILLION = 1_000_000
TIMED = 200
FEW = 2000
SHADOW = 10_000


class Labelled(Protocol):
    """Two texts and whether they mean the same."""

    @property
    def a(self) -> str:
        """What is kept."""
        ...

    @property
    def b(self) -> str:
        """What is asked."""
        ...

    @property
    def duplicate(self) -> bool:
        """Whether they mean the same."""
        ...


def shares(truth: Sequence[bool], hits: Sequence[bool]) -> dict[str, Any]:
    """The figures of one set."""
    right = sum(hit and true for hit, true in zip(hits, truth, strict=True))
    wrong = sum(hits) - right
    return {
        "true_hit_rate": round(right / max(1, sum(truth)), 4),
        "wrong_per_lookup": round(wrong / max(1, len(truth)), 5),
        "wrong_per_hit": round(wrong / max(1, sum(hits)), 5),
        "hits": sum(hits),
        "lookups": len(truth),
    }


def judged(
    pairs: Sequence[Labelled],
    found: Embeddings,
    evidence: Evidence | None = None,
    proof: Proof | None = None,
) -> tuple[list[bool], Counter[str]]:
    """Each pair by itself: `a` kept, `b` asked; whether it was served, and why or why not."""
    hits, reasons = [], Counter[str]()
    similar = Similar(evidence=evidence, proof=proof)
    for pair in pairs:
        similar.add("a", found.of(pair.a))
        candidate = similar.look(found.of(pair.b))
        assert candidate is not None
        hits.append(candidate.serve)
        reasons[f"{candidate.reason}, {'same' if pair.duplicate else 'other'}"] += 1
    return hits, reasons


def gated(pairs: Sequence[Labelled], found: Embeddings) -> list[bool]:
    """The plain gate."""
    return [float(found.vector(p.a) @ found.vector(p.b)) >= GATE for p in pairs]


def shadow(pairs: Sequence[QuestionPair], found: Embeddings) -> Evidence:
    """What a week without serving has proven."""
    evidence = Evidence()
    for number, pair in enumerate(pairs):
        one, other = found.vector(pair.a), found.vector(pair.b)
        for place in (one, other):
            evidence.add(-1 - number, place, float(one @ other), correct=pair.duplicate)
    return evidence


def asked_anyway(
    pairs: Sequence[Labelled], found: Embeddings
) -> tuple[Evidence, Proof, int | None]:
    """What a week of look-ups has proven, and after how many verified hits serving could begin."""
    evidence, proof, hits, enough = Evidence(), Proof(Accepted().per_hit), 0, None
    for pair in pairs:
        similar = Similar(evidence=evidence, proof=proof)
        similar.add("a", found.of(pair.a))
        candidate = similar.look(found.of(pair.b))
        assert candidate is not None
        similar.learn(candidate, correct=pair.duplicate)
        hits += candidate.hit
        if proof.holds and enough is None:
            enough = hits
    return evidence, proof, enough


def together(
    pairs: Sequence[QuestionPair], found: Embeddings, evidence: Evidence
) -> dict[str, Any]:
    """All first questions kept at once."""
    similar = Similar(evidence=evidence)
    for text in {pair.a for pair in pairs}:
        similar.add(text, found.of(text))
    served = right = wrong = 0
    for pair in pairs:
        candidate = similar.look(found.of(pair.b))
        assert candidate is not None
        served += candidate.serve
        if candidate.serve and candidate.id == pair.a:
            right += pair.duplicate
            wrong += not pair.duplicate
    return {
        "true_hit_rate": round(right / sum(pair.duplicate for pair in pairs), 4),
        "wrong_per_lookup": round(wrong / len(pairs), 5),
        "wrong_per_hit": round(wrong / max(1, right + wrong), 5),
        "unlabelled_hits": served - right - wrong,
        "hits": served,
        "lookups": len(pairs),
    }


def question_figures(
    folder: Path, processes: int
) -> tuple[dict[str, Any], Embeddings | None, Evidence]:
    """All figures on the real pairs."""
    pairs = question_pairs(folder)
    if not pairs:
        print(f"there are no question pairs in {folder}: generated prompts alone")
        return {}, None, Evidence()
    found = embeddings((text for pair in pairs for text in (pair.a, pair.b)), processes)
    seen = [pair for pair in pairs if pair.share < SEEN]
    test = [pair for pair in pairs if pair.share >= SEEN]
    truth = [pair.duplicate for pair in test]
    evidence = shadow(seen, found)
    hits, reasons = judged(test, found, evidence)
    print("pairs:", dict(reasons.most_common(12)))
    alone, _ = judged(test[:FEW], found)
    figures = {
        "pairs": shares(truth, hits),
        "pairs_alone": shares(truth[:FEW], alone),
        "pairs_plain_gate": shares(truth, gated(test, found)),
        "pairs_together": together(test[:FEW], found, evidence),
        "shadow_pairs": len(seen),
    }
    return figures, found, evidence


def agent_figures(processes: int) -> dict[str, Any]:
    """All figures on generated prompts."""
    pairs = list(agent_prompts.pairs(SEED, AGENT_PAIRS, training=False))
    # What the guard refuses proves nothing, and need not be embedded.
    week = [
        pair
        for pair in agent_prompts.pairs(SEED + 1, SHADOW, training=False)
        if difference(facts(pair.a), facts(pair.b)) is None
    ]
    found = embeddings((text for pair in pairs + week for text in (pair.a, pair.b)), processes)
    truth = [pair.duplicate for pair in pairs]
    alone, _ = judged(pairs, found)
    evidence, proof, enough = asked_anyway(week, found)
    hits, reasons = judged(pairs, found, evidence, proof)
    print("agent_prompts:", dict(reasons.most_common(16)))
    wrong = Counter(p.kind for p, hit in zip(pairs, hits, strict=True) if hit and not p.duplicate)
    print("wrong by kind:", dict(wrong))
    return {
        "agent_prompts": shares(truth, hits)
        | {"wrong_by_kind": dict(wrong), "hits_until_served": enough},
        "agent_prompts_alone": shares(truth, alone),
        "agent_prompts_plain_gate": shares(truth, gated(pairs, found)),
    }


def workload(processes: int) -> dict[str, Any]:
    """The share of look-ups that are served where intents repeat."""
    draw = random.Random(SEED)
    intents = list(agent_prompts.intents(SEED, INTENTS))
    weights = [1 / rank for rank in range(1, INTENTS + 1)]
    asked: list[tuple[int, str]] = []
    last: dict[int, str] = {}
    for intent in draw.choices(range(INTENTS), weights, k=LOOKUPS):
        again = intent in last and draw.random() < 0.5
        last[intent] = last[intent] if again else draw.choice(intents[intent])
        asked.append((intent, last[intent]))
    found = embeddings((text for _, text in asked), processes)
    similar = Similar()
    kept: dict[str, int] = {}
    counts = Counter[str]()
    for intent, text in asked:
        if text in kept:
            counts["exact"] += 1
            continue
        candidate = similar.look(found.of(text))
        if candidate is not None:
            right = kept[candidate.id] == intent
            if candidate.serve:
                counts["similar" if right else "wrong"] += 1
                continue
            similar.learn(candidate, correct=right)
        counts["model"] += 1
        kept[text] = intent
        similar.add(text, found.of(text))
    hits = LOOKUPS - counts["model"]
    first = len({intent for intent, _ in asked})
    return {
        "hit_rate": round(hits / LOOKUPS, 4),
        "exact_rate": round(counts["exact"] / LOOKUPS, 4),
        "similar_rate": round((counts["similar"] + counts["wrong"]) / LOOKUPS, 4),
        "redundant_calls_removed": round(hits / (LOOKUPS - first), 4),
        "wrong_per_lookup": round(counts["wrong"] / LOOKUPS, 5),
        "wrong_per_hit": round(counts["wrong"] / max(1, hits), 5),
    }


def times(
    model: MiniLm, found: Embeddings, texts: Sequence[str], evidence: Evidence, entries: int
) -> dict[str, Any]:
    """Look-up times in milliseconds; with the large graph its search stands for that of the 10,000."""
    draw = random.Random(SEED)
    kept = draw.sample(list(texts), min(10_000, len(texts)))
    asked = draw.sample(list(texts), min(TIMED, len(texts)))
    similar = Similar(evidence=evidence)
    for text in kept:
        similar.add(text, Embedded.unpacked(text, found.of(text).packed()))
    told: dict[str, Any] = {"entries_10k": len(kept)}
    spans: dict[str, list[float]] = {"embedding": [], "at_10k": []}
    index, exact = None, Index()
    if entries:
        keys = np.arange(len(kept), dtype=np.uint64)
        exact.add_many(keys, np.array([found.vector(text) for text in kept]), 1)
        index, seconds = built(found, entries)
        told |= {"entries_1m": len(index), "graph_seconds": round(seconds, 1)}
        spans |= {"graph": [], "at_1m": []}
    for text in [asked[0], *asked]:
        start = time.perf_counter()
        (prompt,) = model.embed([text])
        embedded = time.perf_counter()
        similar.look(prompt)
        looked = time.perf_counter()
        spans["embedding"].append(embedded - start)
        spans["at_10k"].append(looked - start)
        if index is not None:
            assert exact.nearest(prompt.vector, NEAREST)
            found_exactly = time.perf_counter()
            assert index.nearest(prompt.vector, NEAREST)
            found_by_graph = time.perf_counter()
            by_graph, by_rows = found_by_graph - found_exactly, found_exactly - looked
            spans["graph"].append(by_graph)
            spans["at_1m"].append(looked - start - by_rows + by_graph)
    for name, found_spans in spans.items():
        sorted_ms = np.array(found_spans[1:]) * 1000
        told[f"{name}_p50_ms"] = round(float(np.percentile(sorted_ms, 50)), 2)
        told[f"{name}_p95_ms"] = round(float(np.percentile(sorted_ms, 95)), 2)
    return told


def built(found: Embeddings, entries: int) -> tuple[Index, float]:
    """An index of so many vectors, and the seconds that it took; the second time it is read."""
    name = hashlib.sha256(found.vectors.tobytes()).hexdigest()[:16]
    path = cache_folder() / f"graph-{entries}-{name}.usearch"
    start, index, step = time.perf_counter(), Index(exact_up_to=0), 50_000
    if path.exists():
        index.read(path)
        return index, time.perf_counter() - start
    random_numbers = np.random.default_rng(SEED)
    for first in range(0, entries, step):
        count = min(step, entries - first)
        rows = found.vectors[random_numbers.integers(0, len(found.vectors), count)]
        noise = random_numbers.standard_normal(rows.shape, dtype=np.float32)
        moved = rows + noise * np.float32(0.5 / rows.shape[1] ** 0.5)
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        keys = np.arange(first, first + count, dtype=np.uint64)
        index.add_many(keys, moved, os.cpu_count() or 1)
    seconds = time.perf_counter() - start
    index.write(path)
    return index, seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--entries", type=int, default=MILLION)
    options = parser.parse_args()
    processes = os.cpu_count() or 1
    model = MiniLm()  # first: onnxruntime crashes where it is loaded after usearch's graph
    start = time.perf_counter()
    figures, found, evidence = question_figures(options.data, processes)
    print(json.dumps(figures), flush=True)
    figures |= agent_figures(processes)
    print(json.dumps(figures), flush=True)
    figures["workload"] = workload(processes)
    if found is not None:
        texts = sorted({t for p in question_pairs(options.data) for t in (p.a, p.b)})
    else:
        prompts = agent_prompts.pairs(SEED, AGENT_PAIRS, training=False)
        texts = sorted({text for pair in prompts for text in (pair.a, pair.b)})
        found = embeddings(texts, processes)
    for entries in dict.fromkeys((0, options.entries)):
        # The large graph takes minutes: all else is told before.
        told = times(model, found, texts, evidence, entries)
        for part in ("p50_ms", "p95_ms"):
            ways = [told.get(f"{name}_{part}", 0.0) for name in ("at_10k", "at_1m")]
            figures[f"lookup_{part}"] = max(ways)
        figures["times"] = told
        figures["conditions"] = {
            "python": platform.python_version(),
            "cores": processes,
            "embedding_threads": model.threads,
            "accepted_wrong_per_hit": 0.02,
            "accepted_wrong_per_lookup": 0.01,
            "seconds": round(time.perf_counter() - start),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
