"""What routing saves for a given loss of quality, on recorded answers of a weak and a strong model.

    python -m hack.bench.routing [--data DIR] [--seed 7]

`DIR/model_answers.jsonl.gz` holds a question a line: `subject`, `prompt`, and whether the `weak` and
the `strong` model were right. Without the file the bench says so and runs on a generated set alone.

- Quality is the share of answers that are right. Loss is relative: what is missing to the strong model
  alone, as a share of its quality. Saving is the share of the strong model's calls that are not made:
  every question costs one strong call or nothing. `money` tells the same in dollars at stated prices,
  by each question's length.
- Questions are put into five parts by a hash of their text. What routes a part was learnt from the four
  others. The subject is the task class. The file's order is not used: ties are broken by the hash.
- `random`: sends a share of all questions to the weak model. `prior`: first those subjects where the
  strong model was least ahead. `ours`: the product's predictor and router, first those questions where
  the strong model is predicted to be least ahead.
- A curve has a point for each share that goes to the weak model. The saving at 5 % loss is the largest
  share at which the loss is at most 5 %, read off the curve; the interval is from a bootstrap of the
  questions. `operating` tells what comes out where nobody can read off the curve: the tolerance is set
  so that the predicted loss is 5 %, without a look at the answers that are tested.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from seedbed.runtime.llm.prices import Price
from seedbed.runtime.llm.routing.fitting import Example, fit
from seedbed.runtime.llm.routing.hardness import LEVELS
from seedbed.runtime.llm.routing.marks import Marks, marks
from seedbed.runtime.llm.routing.predictor import Predictor
from seedbed.runtime.llm.routing.router import Wanted, route

FILE = "model_answers.jsonl.gz"
PARTS = 5
LOSS = 0.05
POINTS = 20
RESAMPLED = 1000
WEAK, STRONG = "weak", "strong"
PRICES = {
    WEAK: Price.per_million("0.60", "0.60"),
    STRONG: Price.per_million("10.00", "30.00"),
}
"""Dollars for a million tokens: usual prices of an open 8x7B model and of GPT-4 Turbo."""
ANSWER_TOKENS = 100

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what became of it."""

    subject: str
    prompt: str
    weak: float
    strong: float

    @property
    def digest(self) -> int:
        """A number that depends on its text alone."""
        return int.from_bytes(hashlib.sha256(self.prompt.encode()).digest()[:8])


def recorded(path: Path) -> list[Question]:
    """The recorded answers, in the order of their hash."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = [
        Question(row["subject"], row["prompt"], float(row["weak"]), float(row["strong"]))
        for row in rows
    ]
    return sorted(found, key=lambda each: each.digest)


def generated(count: int, seed: int) -> list[Question]:
    """Questions whose difficulty shows in their text, for an installation without the recorded set.

    A subject has a difficulty; so have a negation, numbers and a second clause. The strong model
    bears 1.5 more of it, on a logistic scale.
    """
    chance = random.Random(seed)
    subjects = {f"subject-{at}": chance.gauss(0.0, 1.0) for at in range(30)}
    words = ("river", "treaty", "enzyme", "market", "vector", "verdict", "pigment", "ledger")
    found = []
    for at in range(count):
        subject = chance.choice(list(subjects))
        hard, text = subjects[subject], f"Item {at}: which {chance.choice(words)} "
        if chance.random() < 0.3:
            hard, text = hard + 1.0, text + "is NOT "
        if chance.random() < 0.4:
            hard, text = hard + 0.8, text + f"given {chance.randint(10, 9999)} = x, "
        if chance.random() < 0.3:
            hard, text = hard + 0.6, text + f"if the {chance.choice(words)} is unknown, "
        text += f"closest to the {' '.join(chance.choices(words, k=3))}?"
        weak, strong = (float(chance.random() < _logistic(able - hard)) for able in (1.0, 2.5))
        found.append(Question(subject, text, weak, strong))
    return sorted(found, key=lambda each: each.digest)


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was predicted of every question by what had not seen its part: shares that are right."""

    prior: Array
    weak: Array
    strong: Array
    fit_seconds: float


def parted(questions: Sequence[Question]) -> Iterator[tuple[list[int], list[int]]]:
    """For each part: what is known, and what is tested."""
    part = [question.digest % PARTS for question in questions]
    for tested in range(PARTS):
        yield (
            [at for at, each in enumerate(part) if each != tested],
            [at for at, each in enumerate(part) if each == tested],
        )


def predict(questions: Sequence[Question]) -> Predicted:
    """Predictions for each part, learnt from the others."""
    shown = [marks(question.prompt) for question in questions]
    prior, weak, strong = (np.zeros(len(questions)) for _ in range(3))
    took = 0.0
    for known, tested in parted(questions):
        began = time.perf_counter()
        predictor = learn([questions[at] for at in known], [shown[at] for at in known])
        took += time.perf_counter() - began
        ahead = _ahead([questions[at] for at in known])
        for at in tested:
            subject = questions[at].subject
            prior[at] = ahead.get(subject, ahead[""])
            weak[at] = predictor.of(subject, WEAK, 0, shown[at]).quality
            strong[at] = predictor.of(subject, STRONG, 0, shown[at]).quality
    return Predicted(prior, weak, strong, took / PARTS)


def learn(questions: Sequence[Question], shown: Sequence[Marks]) -> Predictor:
    """The product's predictor, as it is after these outcomes."""
    both = list(zip(questions, shown, strict=True))
    return Predictor(
        (),
        {},
        {
            WEAK: fit([Example(each.subject, seen, each.weak) for each, seen in both]),
            STRONG: fit([Example(each.subject, seen, each.strong) for each, seen in both]),
        },
    )


def _ahead(questions: Sequence[Question]) -> dict[str, float]:
    """How far the strong model was ahead, by subject; under the empty name, in all."""
    found: dict[str, list[float]] = {}
    for each in questions:
        for name in (each.subject, ""):
            found.setdefault(name, []).append(each.strong - each.weak)
    return {name: sum(values) / len(values) for name, values in found.items()}


class Curves:
    """Curves over the same questions, in the order of their hash, which breaks ties."""

    def __init__(self, questions: Sequence[Question], seed: int) -> None:
        self._ahead = np.array([each.strong - each.weak for each in questions])
        self._strong = np.array([each.strong for each in questions])
        self._money = np.array([_dollars(each) for each in questions])
        draws = np.random.default_rng(seed).multinomial
        count = len(questions)
        self._weights = draws(count, np.full(count, 1 / count), size=RESAMPLED).astype(np.float64)

    def loss(self, order: NDArray[np.int_], weights: Array | None = None) -> Array:
        """Relative loss after each further question in this order went to the weak model."""
        ahead, strong = self._ahead[order], self._strong[order]
        if weights is not None:
            ahead, strong = ahead * weights[order], strong * weights[order]
        return np.asarray(np.cumsum(ahead) / strong.sum())

    def points(self, order: NDArray[np.int_]) -> list[dict[str, float]]:
        """The curve."""
        loss, count = self.loss(order), len(order)
        saved = np.cumsum(self._money[order, 0] - self._money[order, 1]) / self._money[:, 0].sum()
        found = [{"saving": 0.0, "loss": 0.0, "money": 0.0}]
        for step in range(1, POINTS + 1):
            at = count * step // POINTS - 1
            found.append(
                {
                    "saving": round((at + 1) / count, 4),
                    "loss": round(float(loss[at]), 4),
                    "money": round(float(saved[at]), 4),
                }
            )
        return found

    def saving(self, order: NDArray[np.int_]) -> float:
        """The largest share within the loss."""
        return _within(self.loss(order), np.arange(1, len(order) + 1) / len(order))

    def money(self, order: NDArray[np.int_]) -> float:
        """The largest share of the dollars within the loss."""
        saved = np.cumsum(self._money[order, 0] - self._money[order, 1]) / self._money[:, 0].sum()
        return _within(self.loss(order), saved)

    def resampled(self, order: NDArray[np.int_]) -> Array:
        """The saving on every resample of the questions."""
        return np.array(
            [
                _within(self.loss(order, each), np.cumsum(each[order]) / each.sum())
                for each in self._weights
            ]
        )

    def at(self, to_weak: NDArray[np.bool_]) -> dict[str, float]:
        """Saving and loss of a decision for every question."""
        return {
            "saving": round(float(to_weak.mean()), 4),
            "loss": round(float(self._ahead[to_weak].sum() / self._strong.sum()), 4),
            "money": round(
                float(
                    (self._money[to_weak, 0] - self._money[to_weak, 1]).sum()
                    / self._money[:, 0].sum()
                ),
                4,
            ),
        }


def _within(loss: Array, saved: Array) -> float:
    fits = np.flatnonzero(loss <= LOSS)
    return float(saved[fits[-1]]) if len(fits) else 0.0


def _dollars(question: Question) -> tuple[int, int]:
    """What the strong and the weak model cost for a question, in nano-dollars."""
    tokens = len(question.prompt.encode()) // 4
    return PRICES[STRONG].of(tokens, ANSWER_TOKENS), PRICES[WEAK].of(tokens, ANSWER_TOKENS)


def operating(predicted: Predicted) -> float:
    """The tolerance at which the predicted loss is 5 %."""
    ahead = np.sort(predicted.strong - predicted.weak)
    loss = np.cumsum(ahead) / predicted.strong.sum()
    return float(ahead[np.flatnonzero(loss <= LOSS)[-1]])


def routed(questions: Sequence[Question], tolerance: float) -> NDArray[np.bool_]:
    """Which questions the product's router sends to the weak model at a tolerance."""
    shown = [marks(question.prompt) for question in questions]
    to_weak = np.zeros(len(questions), dtype=bool)
    for known, tested in parted(questions):
        predictor = learn([questions[at] for at in known], [shown[at] for at in known])
        for at in tested:
            question = questions[at]
            costs = dict(zip((STRONG, WEAK), _dollars(question), strict=True))
            wanted = Wanted(question.subject, LEVELS // 2, 1.0, tolerance, shown[at])
            to_weak[at] = route(costs, predictor, wanted, explore=0, chance=1).order[0] == WEAK
    return to_weak


def measure(questions: Sequence[Question], seed: int) -> dict[str, Any]:
    """The figures of one set."""
    predicted = predict(questions)
    curves = Curves(questions, seed)
    shuffled = np.random.default_rng(seed).permutation(len(questions))
    orders = {
        "random": shuffled,
        "prior": np.argsort(predicted.prior, kind="stable"),
        "ours": np.argsort(predicted.strong - predicted.weak, kind="stable"),
    }
    ahead = np.array([each.strong - each.weak for each in questions])
    strong = np.array([each.strong for each in questions])
    resampled = {name: curves.resampled(orders[name]) for name in ("prior", "ours")}
    tolerance = operating(predicted)
    return {
        "questions": len(questions),
        "subjects": len({each.subject for each in questions}),
        "quality_weak": round(float((strong - ahead).mean()), 4),
        "quality_strong": round(float(strong.mean()), 4),
        "saving_at_5pct_loss": round(curves.saving(orders["ours"]), 4),
        "saving_interval_95": _interval(resampled["ours"]),
        "prior_saving_at_5pct_loss": round(curves.saving(orders["prior"]), 4),
        "prior_saving_interval_95": _interval(resampled["prior"]),
        "random_saving_at_5pct_loss": round(float(LOSS * strong.mean() / ahead.mean()), 4),
        "ours_above_prior_interval_95": _interval(resampled["ours"] - resampled["prior"]),
        "money_saving_at_5pct_loss": {
            name: round(curves.money(order), 4) for name, order in orders.items()
        },
        "operating": {
            "tolerance": round(tolerance, 4),
            **curves.at(routed(questions, tolerance)),
        },
        "calibration_error": {
            WEAK: _calibration(predicted.weak, strong - ahead),
            STRONG: _calibration(predicted.strong, strong),
        },
        "fit_seconds": round(predicted.fit_seconds, 3),
        "curves": {name: curves.points(order) for name, order in orders.items()},
    }


def _interval(values: Array) -> list[float]:
    return [round(float(np.quantile(values, at)), 4) for at in (0.025, 0.975)]


def _calibration(predicted: Array, right: Array) -> float:
    """Expected calibration error over ten bins of equal width."""
    bins = np.minimum((predicted * 10).astype(int), 9)
    gaps = [abs(float((predicted[bins == at] - right[bins == at]).sum())) for at in range(10)]
    return round(sum(gaps) / len(predicted), 4)


def overhead(questions: Sequence[Question], predictor: Predictor) -> dict[str, float]:
    """Milliseconds that one decision takes, from the text to the model."""
    times = []
    for question in questions[:1000]:
        began = time.perf_counter()
        wanted = Wanted(question.subject, 0, 1.0, 0.1, marks(question.prompt))
        route({WEAK: 1, STRONG: 20}, predictor, wanted, explore=0, chance=1)
        times.append((time.perf_counter() - began) * 1000)
    return {f"decision_p{at}_ms": round(float(np.percentile(times, at)), 3) for at in (50, 95, 99)}


def show(name: str, found: dict[str, Any]) -> None:
    """A table for people."""
    print(f"\n{name}: {found['questions']} questions, {found['subjects']} subjects")
    print(f"right: weak {found['quality_weak']:.1%}, strong {found['quality_strong']:.1%}")
    print("  share   loss: random   prior    ours")
    curves = found["curves"]
    for row in zip(curves["random"], curves["prior"], curves["ours"], strict=True):
        losses = "  ".join(f"{each['loss']:7.2%}" for each in row)
        print(f"  {row[0]['saving']:5.0%}        {losses}")
    print(
        f"saving at 5 % loss: random {found['random_saving_at_5pct_loss']:.1%}, "
        f"prior {found['prior_saving_at_5pct_loss']:.1%}, ours {found['saving_at_5pct_loss']:.1%} "
        f"(95 %: {found['saving_interval_95']}; above the prior: "
        f"{found['ours_above_prior_interval_95']})",
        flush=True,
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    made = generated(4000, options.seed)
    found = {"generated": measure(made, options.seed)}
    show("generated", found["generated"])
    path = options.data / FILE
    headline = found["generated"]
    timed = made
    if path.exists():
        timed = recorded(path)
        headline = found["recorded"] = measure(timed, options.seed)
        show("recorded", headline)
    else:
        print(f"there is no {path}: the generated set alone is measured")
    predictor = learn(timed, [marks(each.prompt) for each in timed])
    conditions = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seed": options.seed,
        "parts": PARTS,
        "quality": "share of right answers",
        "loss": "relative to the strong model alone",
        "saving": "share of the strong model's calls that are not made",
        "dollars_per_million": {WEAK: [0.60, 0.60], STRONG: [10.0, 30.0]},
        "answer_tokens": ANSWER_TOKENS,
        "data": "recorded" if path.exists() else "generated",
    }
    print(
        json.dumps(
            {
                **headline,
                **overhead(timed, predictor),
                "conditions": conditions,
                "sets": {
                    name: {k: v for k, v in each.items() if k != "curves"}
                    for name, each in found.items()
                },
            }
        )
    )


if __name__ == "__main__":
    main()
