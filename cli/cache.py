"""The commands about the cache of model answers: cache stats, cache invalidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from seedbed.cli import output as printed
from seedbed.cli.options import Form, Namespace, Output, Place, anywhere, read
from seedbed.cli.source import Source

app = typer.Typer(help="The cache of model answers.", no_args_is_help=True)


@app.command()
@anywhere
def stats(
    *,
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days to look back, with today.")] = 30,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show hits and misses, what was saved, and how many hits were wrong."""

    async def show(source: Source) -> int:
        found = await source.cache_stats(
            "" if all_namespaces else namespace or source.namespace, days
        )
        printed.print_as(output, found, ("COUNTED", "VALUE"), _rows(found))
        return 0

    read(show, place)


@app.command()
@anywhere
def invalidate(
    *,
    tag: Annotated[str, typer.Option(help="Only answers that carry this tag.")] = "",
    model: Annotated[str, typer.Option(help="Only answers that this model gave.")] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="All answers of the namespace.")
    ] = False,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Forget answers of a namespace: by tag, by model, or all."""
    if bool(tag or model) == everything:
        raise typer.BadParameter("give --tag or --model, or else --all")

    async def forget(source: Source) -> int:
        gone = await source.cache_invalidate(namespace or source.namespace, tag, model)
        print(f"{gone} forgotten")
        return 0

    read(forget, place)


def _rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    times, wrong, saved = found["p95_seconds"], found["wrong_hits"], found["saved"]
    return [
        ("lookups", str(found["lookups"])),
        ("exact hits", str(found["exact_hits"])),
        ("semantic hits", str(found["semantic_hits"])),
        ("stale hits", str(found["stale_hits"])),
        ("misses", str(found["misses"])),
        ("bypasses", str(found["bypasses"])),
        ("hit rate", _percent(found["hit_rate"])),
        (
            "withheld",
            f"{found['withheld']['exact']} exact, {found['withheld']['semantic']} semantic",
        ),
        ("stored", str(found["stored"])),
        (
            "saved",
            f"${saved['dollars']}, {saved['prompt_tokens']}+{saved['completion_tokens']} tokens",
        ),
        ("spent on misses", f"${found['spent_dollars']}"),
        ("P95 of hits", _seconds(times["hits"])),
        ("P95 of misses", _seconds(times["misses"])),
        ("P95 of lookups", _seconds(times["lookups"])),
        ("wrong semantic hits", f"{wrong['wrong']} of {wrong['verified']} verified"),
        (
            "wrong per hit",
            f"{_percent(wrong['per_hit'])}, at most {_percent(wrong['per_hit_at_most'])}",
        ),
        ("wrong per lookup", _percent(wrong["per_lookup"])),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.2g} ms"
