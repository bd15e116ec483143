"""`seedbed baseline` and `seedbed compare`: how fast a model with seeds is, and which of two is better."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli.options import Form, finish

app = typer.Typer()

Shape = Annotated[str, typer.Option(help="Shape of one sample, such as 3x32x32.")]
Save = Annotated[Path | None, typer.Option(help="JSON file to write, with every single time.")]
Output = Annotated[Form, typer.Option("--output", "-o")]


@app.command()
def baseline(
    *,
    model: Annotated[
        str,
        typer.Option(help="package.module:function giving a torch module; else the reference."),
    ] = "",
    shape: Shape = "768",
    seeds: Annotated[int, typer.Option(help="On each layer; 0 for the plain model.", min=0)] = 1024,
    acting: Annotated[float, typer.Option(help="Share of the seeds that act.", min=0, max=1)] = 1.0,
    batch: Annotated[
        list[int] | None, typer.Option(help="Batch size; may be repeated.", min=1)
    ] = None,
    warm_up: Annotated[int, typer.Option(help="Calls before.", min=0)] = 10,
    iterations: Annotated[int, typer.Option(help="Calls that are measured.", min=2)] = 100,
    against: Annotated[Path | None, typer.Option(help="Stored baseline; regressions fail.")] = None,
    tolerance: Annotated[float, typer.Option(help="Growth that is no regression.", min=0)] = 0.05,
    migration: Annotated[
        Path | None, typer.Option(help="Migration file whose first phase has the targets.")
    ] = None,
    save: Save = None,
    output: Output = Form.table,
) -> None:
    """Measure a model's forward pass by batch size: latency, throughput, memory.

    Without --model it is the reference model, 12 layers of 768, with seeds on each. The exit code is 1 where
    a target of --migration is missed, or something has regressed --against a stored baseline.
    """

    async def command() -> int:
        measuring = import_module("seedbed.cli.measuring")
        how = measuring.How(model, shape, seeds, acting, tuple(batch or ()), warm_up, iterations)
        return int(measuring.baseline(how, against, tolerance, migration, save, output))

    finish(command())


@app.command()
def compare(
    *,
    a: Annotated[
        str, typer.Argument(help="Entry point of a model, or a file of `baseline --save`.")
    ],
    b: Annotated[str, typer.Argument(help="The other one, of the same kind.")] = "",
    shape: Shape = "768",
    batch: Annotated[int, typer.Option(help="Samples a call.", min=1)] = 16,
    samples: Annotated[int, typer.Option(help="Pairs of calls.", min=2)] = 1000,
    tolerance: Annotated[float, typer.Option(help="Of two baselines.", min=0)] = 0.05,
    save: Save = None,
    output: Output = Form.table,
) -> None:
    """Compare two models on the same inputs, or two stored baselines.

    Models: time, similarity of the answers, and the winner by a paired t-test. One file of an earlier
    `compare --save` alone gives its verdict again. Baselines: the exit code is 1 where the second regressed.
    """

    async def command() -> int:
        measuring = import_module("seedbed.cli.measuring")
        if b and measuring.is_file(a) and measuring.is_file(b):
            return int(measuring.regressions(Path(a), Path(b), tolerance, output))
        race = measuring.Race(a, b, shape, batch, samples)
        return int(measuring.compare(race, save, output))

    finish(command())
