"""Shortens a plan without changing what it means.

- Widening: a `needs` of a pure step through which no data flows is dropped. The step has no effect but
  its output, and nothing changes that but its inputs, so nobody can tell when it ran. What came after it
  and is not pure still waits for all that it waited for.
- Merging: pure steps that do the same with the same inputs run once; who read the other reads the one.
- Reduction: a need without data is dropped where another need leads to the same step anyway.
- Order: steps with the longest path behind them stand first, and so start first where many are ready.

Only steps whose ends are plain are touched, and only where that holds of everything before them too: a
branch, a join of some needs or an `onError` gives needs a meaning beyond order. The result is the best of
the original and the rewritten plans under simulated execution, so a plan never gets longer by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seedbed.crds.graph_builder import build_graph
from seedbed.crds.messages import Advice
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.planning.critical_path import critical_path
from seedbed.runtime.workflow.planning.draft import Change, Draft, Sort
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.rewriting import merge, reduce_needs, widen
from seedbed.runtime.workflow.planning.schedule import Job, simulate
from seedbed.runtime.workflow.planning.timings import Times, Work, works

MOST_STEPS = 20_000
"""Steps that a plan may have: what leads to what is kept as one bit for each pair of them."""


@dataclass(frozen=True, slots=True)
class Optimisation:
    """A plan and what became of it.

    Attributes:
        before: simulated seconds of the plan as it was written.
        after: the same of `spec`.
        changes: the first of each sort.
        counts: how many there are of each sort.
        merged: for each step that was left out, the one that stands for it.
        left_out: why something was not tried, where it was not.
    """

    spec: WorkflowSpec
    before: float
    after: float
    changes: tuple[Change, ...] = ()
    counts: Counter[Sort] = field(default_factory=Counter)
    merged: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """Part of the time that is saved, 0 to 1."""
        return (self.before - self.after) / self.before if self.before > 0 else 0.0


def optimise(spec: WorkflowSpec, earlier: Sequence[Times] = ()) -> Optimisation:
    """Shorten a plan; see the module.

    Args:
        spec: the plan, with its steps.
        earlier: times of earlier runs, for the estimates.

    Raises:
        InvalidError: the plan cannot run.
    """
    graph = build_graph(spec)
    estimates = works(graph, {}, earlier)
    before = _simulated(Plan.of(graph, exits_last=False), estimates, spec.parallelism)
    if len(spec.steps) > MOST_STEPS:
        return Optimisation(
            spec, before, before, left_out=(f"the plan has more than {MOST_STEPS:,} steps",)
        )
    draft = Draft(graph, spec)
    for rewrite in (widen, merge, reduce_needs):
        rewrite(draft)
    rewritten = _arranged(draft, draft.kept(), estimates)
    candidates = (rewritten, _by_longest_path(draft, rewritten, estimates))
    best = min(candidates, key=lambda one: one.seconds)
    if best.seconds >= before:
        return Optimisation(spec, before, before, left_out=tuple(draft.left_out))
    if best is not rewritten:
        draft.note("reordered", "", "steps with the longest path behind them start first")
    return Optimisation(
        draft.written(best.order),
        before,
        best.seconds,
        tuple(draft.changes),
        draft.counts,
        draft.renamed(),
        tuple(draft.left_out),
    )


def advice_of(found: Optimisation, *, applied: bool) -> Advice:
    """What was found, in one sentence."""
    done: dict[Sort, str] = {
        "widened": "needs of pure steps dropped: {:,}",
        "merged": "equal pure steps merged: {:,}",
        "reduced": "implied needs dropped: {:,}",
        "reordered": "long paths start first",
    }
    told = [form.format(found.counts[sort]) for sort, form in done.items() if found.counts[sort]]
    message = f"{found.gain:.0%} shorter, simulated: {', '.join(told)}" if found.gain else ""
    return Advice(applied, found.before, found.after, message)


@dataclass(frozen=True, slots=True)
class _Arranged:
    """A draft's steps in an order, and how long they take in it."""

    order: Sequence[int]
    plan: Plan
    seconds: float


def _arranged(draft: Draft, order: Sequence[int], estimates: Sequence[Work]) -> _Arranged:
    at = {step: place for place, step in enumerate(order)}
    names = [draft.nodes[step].name for step in order]
    plan = Plan.build(names, [sorted(at[need] for need in draft.needs[step]) for step in order])
    works_of = [estimates[step] for step in order]
    return _Arranged(order, plan, _simulated(plan, works_of, draft.spec.parallelism))


def _by_longest_path(draft: Draft, found: _Arranged, estimates: Sequence[Work]) -> _Arranged:
    """The same steps, those with the longest path behind them first."""
    spans = [estimates[step].span(0.0, draft.spec.parallelism) for step in found.order]
    tails = critical_path(found.plan, spans).tails
    places = sorted(range(len(spans)), key=lambda place: (-tails[place], place))
    return _arranged(draft, [found.order[place] for place in places], estimates)


def _simulated(plan: Plan, estimates: Sequence[Work], parallelism: int) -> float:
    jobs = [Job(work.seconds, work.units) for work in estimates]
    return simulate(plan, jobs, parallelism).seconds
