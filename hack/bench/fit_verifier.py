"""Fits the verifier of the semantic cache and writes `runtime/llm/cache/verifier.npz`.

    python hack/bench/fit_verifier.py [--data DIR] [--agents 6000]

Two forests of boosted trees. `near` reads `features` and the `evidence` around both prompts; it is fitted
on the 70 % of the labelled question pairs that a hash puts into the training part, with what the other
pairs of that part have proven. `alone` reads `features` only and is fitted on these pairs and on generated
agents' prompts of the templates that a hash gives to training. The bars, the log-odds from which on hits
are wrong in at most such a share, come from predictions for folds that were left out, of `near` from the
pairs, of `alone` from the agents' prompts (whole templates). One more wrong hit is counted than there
were, as conformal risk control does, and a margin is left. Each forest is judged on what the cache would
show it: `alone` on what the guard lets through, `near` also on what outcomes may outweigh. The pairs tell
nothing about small shares where nothing is proven: of those that are equal word for word 7 % are labelled
different. Needs scikit-learn; the product does not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.bench import agent_prompts
from hack.bench.question_pairs import SEEN, Embeddings, QuestionPair, embeddings, question_pairs
from seedbed.runtime.llm.cache.evidence import NEIGHBOURS, expected, summed
from seedbed.runtime.llm.cache.features import Prompt, features, prompt
from seedbed.runtime.llm.cache.guard import WEIGHED, difference
from seedbed.runtime.llm.cache.similar import FAR, FARTHEST
from seedbed.runtime.llm.cache.verifier import FILE

VOCABULARY = 30_522
FOLDS = 5
MARGIN = {"near": 0.875, "alone": 0.6}
"""How much of the accepted share may be wrong there; unseen templates differ more than pairs do."""
PAIRS_ALONE = 0.3
"""Weight of the pairs, beside the agents' prompts, where nothing is proven."""
ACCEPTED = (0.01, 0.015, 0.02, 0.03, 0.05, 0.1)
"""Shares of wrong hits for which there is a bar."""
SETTINGS: dict[str, Any] = {
    "max_iter": 800,
    "learning_rate": 0.05,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 60,
    "l2_regularization": 5.0,
    "max_features": 0.2,
    "random_state": 0,
}
Matrix = NDArray[np.float64]


def rarities(texts: Sequence[str], found: Embeddings) -> NDArray[np.float32]:
    """By token id: 0 in every text, 1 in none."""
    counts = np.zeros(VOCABULARY)
    for text in texts:
        counts[np.unique(found.of(text).tokens)] += 1
    rare = np.log((len(texts) + 1) / (counts + 1)) / np.log(len(texts) + 1)
    rounded: NDArray[np.float32] = (np.round(rare * 255) / 255).astype(np.float32)
    return rounded


def rows_of(
    pairs: Sequence[tuple[str, str]], found: Embeddings, rare: NDArray[np.float32]
) -> tuple[Matrix, NDArray[np.bool_], NDArray[np.bool_]]:
    """Features of pairs, which of them the guard lets through, and which also where outcomes may tell."""
    known: dict[str, Prompt] = {}

    def read(text: str) -> Prompt:
        if text not in known:
            known[text] = prompt(found.of(text), rare)
        return known[text]

    both = [(read(a), read(b)) for a, b in pairs]
    differs = [difference(one.facts, other.facts) for one, other in both]
    near = np.array([float(one.embedded.vector @ other.embedded.vector) for one, other in both])
    passed = np.array([each is None for each in differs]) & (near >= FAR)
    weighed = np.array([each is None or each in WEIGHED for each in differs]) & (near >= FARTHEST)
    return np.stack([features(one, other) for one, other in both]), passed, weighed


def around(pairs: Sequence[QuestionPair], found: Embeddings) -> Matrix:
    """What all other pairs have proven around each pair's second question, and around its first."""
    first = np.stack([found.vector(each.a) for each in pairs])
    second = np.stack([found.vector(each.b) for each in pairs])
    cosines = (first * second).sum(axis=1)
    surprise = np.array(
        [each.duplicate - expected(cos) for each, cos in zip(pairs, cosines, strict=True)]
    )
    places, surprises = np.concatenate([first, second]), np.concatenate([surprise, surprise])
    return np.hstack([_around(asked, places, surprises) for asked in (second, first)])


def _around(asked: NDArray[np.float32], places: NDArray[np.float32], surprises: Matrix) -> Matrix:
    count, found_rows = len(asked), []
    for start in range(0, count, 500):
        near = asked[start : start + 500] @ places.T
        own = np.arange(start, start + len(near))
        near[np.arange(len(near)), own] = -1
        near[np.arange(len(near)), own + count] = -1
        best = np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        for row, chosen in zip(near, best, strict=True):
            found_rows.append(summed(row[chosen].astype(np.float64), surprises[chosen]))
    return np.stack(found_rows)


def bar(scores: Matrix, right: NDArray[np.bool_], passed: NDArray[np.bool_], wrong: float) -> float:
    """The lowest score from which on no more than this share is wrong."""
    kept, truth = scores[passed], right[passed]
    order = np.argsort(-kept)
    shares = (np.cumsum(~truth[order]) + 1) / np.arange(2, len(order) + 2)
    good = np.flatnonzero(shares <= wrong)
    return float(kept[order[good[-1]]]) if len(good) else float(kept.max() + 1)


def exported(model: Any) -> dict[str, NDArray[Any]]:
    """A fitted model's trees as arrays, leaves pointing at themselves."""
    roots, parts, offset, depth = [], [], 0, 0
    for (tree,) in model._predictors:  # noqa: SLF001 -- scikit-learn has no public form of its trees
        nodes = tree.nodes
        leaf = nodes["is_leaf"].astype(bool)
        own = np.arange(len(nodes)) + offset
        left = np.where(leaf, own, nodes["left"].astype(np.int64) + offset)
        right = np.where(leaf, own, nodes["right"].astype(np.int64) + offset)
        column = np.where(leaf, 0, nodes["feature_idx"])
        value = np.where(leaf, nodes["value"], 0.0)
        parts.append((column, np.where(leaf, 0.0, nodes["num_threshold"]), left, right, value))
        roots.append(offset)
        offset += len(nodes)
        depth = max(depth, int(nodes["depth"].max()))
    column, limit, left, right, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    return {
        "roots": np.array(roots, np.int32),
        "column": column.astype(np.int16),
        "limit": limit.astype(np.float64),
        "left": left.astype(np.int32),
        "right": right.astype(np.int32),
        "value": value.astype(np.float32),
        "base": np.array(float(model._baseline_prediction.ravel()[0])),  # noqa: SLF001 -- as above
        "depth": np.array(depth),
    }


def tell(name: str, scores: Matrix, right: NDArray[np.bool_], passed: NDArray[np.bool_]) -> None:
    """Print true hits at some shares of wrong ones."""
    for wrong in (0.01, 0.013, 0.015, 0.02, 0.03):
        level = bar(scores, right, passed, wrong)
        hit = (scores >= level) & passed
        print(f"{name:12} wrong/hit {wrong:.3f}: true hits {hit[right].mean():.4f} bar {level:.3f}")


@dataclass(frozen=True, slots=True)
class Set:
    """Labelled pairs: features, which the guard lets through, which are true, their folds.

    `weighed`: which it lets through where outcomes may outweigh what differs.
    """

    rows: Matrix
    passed: NDArray[np.bool_]
    weighed: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    fold: NDArray[np.int64]


def forest(
    fitted_on: Sequence[Set], weights: Sequence[float], judge: int, margin: float
) -> tuple[dict[str, NDArray[Any]], list[Matrix]]:
    """Trees fitted on these sets, with bars from set number `judge`; all left-out predictions."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 -- slow to import

    x = np.concatenate([each.rows for each in fitted_on]).astype(np.float32)
    y = np.concatenate([each.truth for each in fitted_on])
    fold = np.concatenate([each.fold for each in fitted_on])
    lengths = [len(each.truth) for each in fitted_on]
    weight = np.repeat(weights, lengths)
    scores = np.zeros(len(y))
    for out in range(FOLDS):
        model = HistGradientBoostingClassifier(**SETTINGS)
        model.fit(x[fold != out], y[fold != out], sample_weight=weight[fold != out])
        scores[fold == out] = model.decision_function(x[fold == out])
    split = np.split(scores, np.cumsum(lengths)[:-1])
    by = fitted_on[judge]
    bars = [bar(split[judge], by.truth, by.passed, margin * wrong) for wrong in ACCEPTED]
    model = HistGradientBoostingClassifier(**SETTINGS).fit(x, y, sample_weight=weight)
    return exported(model) | {
        "accepted": np.array(ACCEPTED, np.float32),
        "bars": np.array(bars, np.float32),
    }, split


def fitted(pairs: Set, proven: Matrix, agents: Set) -> dict[str, NDArray[Any]]:
    """Both forests, as the file keeps them."""
    alone, (unproven, theirs) = forest([pairs, agents], [PAIRS_ALONE, 1.0], 1, MARGIN["alone"])
    tell("alone, agents", theirs, agents.truth, agents.passed)
    tell("alone, pairs", unproven, pairs.truth, pairs.passed)
    judged = replace(pairs, rows=np.c_[pairs.rows, proven], passed=pairs.weighed)
    near, (scores,) = forest([judged], [1.0], 0, MARGIN["near"])
    tell("near", scores, pairs.truth, pairs.weighed)
    print("bars of near", near["bars"], "of alone", alone["bars"])
    return {f"near_{name}": each for name, each in near.items()} | {
        f"alone_{name}": each for name, each in alone.items()
    }


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--agents", type=int, default=6000)
    options = parser.parse_args()
    everything = question_pairs(options.data)
    pairs = [each for each in everything if each.share < SEEN]
    if not pairs:
        sys.exit(f"no question pairs in {options.data}")
    agents = list(agent_prompts.pairs(7, options.agents, training=True))
    processes = os.cpu_count() or 1
    of_pairs = embeddings((t for p in everything for t in (p.a, p.b)), processes)
    of_agents = embeddings((t for p in agents for t in (p.a, p.b)), processes)
    rare = rarities(sorted({t for p in pairs for t in (p.a, p.b)}), of_pairs)
    questions = Set(
        *rows_of([(p.a, p.b) for p in pairs], of_pairs, rare),
        np.array([p.duplicate for p in pairs]),
        np.array([p.share % FOLDS for p in pairs]),
    )
    prompts = Set(
        *rows_of([(p.a, p.b) for p in agents], of_agents, rare),
        np.array([p.duplicate for p in agents]),
        np.array([hashlib.sha256(p.template.encode()).digest()[1] % FOLDS for p in agents]),
    )
    print("rows", questions.rows.shape, prompts.rows.shape, flush=True)
    kept = fitted(questions, around(pairs, of_pairs), prompts)
    kept["rarities"] = np.round(rare * 255).astype(np.uint8)
    np.savez_compressed(FILE, **kept)  # type: ignore[arg-type]  # the arrays' names are the keys
    print("written", FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
