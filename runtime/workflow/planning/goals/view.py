"""A goal tree as a page: branches that open and close, readable at 10,000 tasks.

Plain HTML: each task with parts is a `details` element, which keyboards and screen readers know and which
needs no script. The first levels are open. Styles follow the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from seedbed.runtime.workflow.planning.goals.tree import GoalTree

OPEN_TASKS = 60
"""Tasks that are visible at first, at most: so many levels are open."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The Content-Security-Policy to serve the page under: nothing is loaded and nothing runs."""

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2733;--faint:#66727f;--line:#d5dbe1;--paper:#fff;--tint:#f3f5f7;
--mark:#b3306b}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--faint:#9aa6b2;--line:#38434e;--paper:#12171c;
--tint:#1b2229;--mark:#e77fae}}
body{font:15px/1.45 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;color:var(--ink);
background:var(--paper);margin:0 auto;max-width:70rem;padding:1.5rem}
h1{font-size:1.4rem;margin:0 0 .2rem}p{color:var(--faint);margin:.2rem 0 1rem}
ol{list-style:none;margin:0;padding:0 0 0 1.1rem;border-left:1px solid var(--line)}
ol.deep{padding-left:.15rem}li{margin:.1rem 0}summary{cursor:pointer;border-radius:4px;padding:.05rem .3rem}
summary:hover,summary:focus-visible{background:var(--tint)}summary b{font-weight:600}
li>span{padding-left:1.35rem}small{color:var(--faint);margin-left:.5rem;font-variant-numeric:tabular-nums}
.cut{color:var(--mark)}
"""
_INDENTED = 24


def page(tree: GoalTree) -> str:
    """The whole tree as one HTML document."""
    facts = f"{len(tree.tasks):,} tasks on {tree.depth:,} levels, {len(tree.leaves):,} of them without parts"
    if tree.planner:
        facts += f" · planned by {tree.planner}"
    if tree.calls:
        facts += f" in {tree.calls:,} calls"
    cut = f'<p class="cut">Not complete: {escape(tree.cut)}.</p>' if tree.cut else ""
    return "".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(tree.goal)}</title><style>{_STYLE}</style>",
            f"<h1>{escape(tree.goal)}</h1><p>{escape(facts)}</p>{cut}",
            "<main>",
            *_branches(tree),
            "</main></html>",
        )
    )


def _branches(tree: GoalTree) -> Iterator[str]:
    """The parts of the goal, depth first, without recursion: trees are deeper than the stack."""
    opened = _opened(tree)
    yield "<ol>"
    stack: list[int | str] = ["</ol>", *reversed(tree.children[0])]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
            continue
        task = tree.tasks[item]
        parts = tree.children[item]
        if not parts:
            yield f"<li><span>{escape(task.text)}</span></li>"
            continue
        state = " open" if task.level < opened else ""
        told = f"{len(parts):,} parts, {tree.sizes[item]:,} tasks"
        yield f"<li><details{state}><summary><b>{escape(task.text)}</b><small>{told}</small></summary>"
        yield '<ol class="deep">' if task.level >= _INDENTED else "<ol>"
        stack.append("</ol></details></li>")
        stack += reversed(parts)


def _opened(tree: GoalTree) -> int:
    """How many levels may be open at first."""
    counts = [0] * (tree.depth + 1)
    for task in tree.tasks:
        counts[task.level] += 1
    shown = 0
    for level, count in enumerate(counts):
        shown += count
        if shown > OPEN_TASKS:
            return max(1, level - 1)
    return tree.depth
