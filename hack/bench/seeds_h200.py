"""The part of `seeds` that needs a GPU: each shape by CUDA-graph replay, against what else there is.

Bytes are logical: x read once, y written once, and of each seed that has tokens and acts the rows of its
rank, once. They are given per second and as a share of what a large copy on the same device moves, in the
same run. A baseline that cannot run a shape says why; one shape's failure does not touch the others.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed.kernels import Blueprint, SeedTensors, plan_route, seed_chunks, seed_tokens
from seedbed.kernels.reference import reference_chunks, reference_tokens

Way = Callable[[], Any]
# What torch, Triton and peft raise when they cannot run something; their own errors derive from these.
REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError,
            ImportError, OSError)  # fmt: skip
REPLAYS = 30
LIMIT_S = 420
WHOLE = 512


class Shape(NamedTuple):
    """Tokens a seed, or in all where `each` is 0."""

    seeds: int
    columns: int
    rank: int
    each: int
    tokens: int


SHAPES = {
    "D1": Shape(1024, 4096, 16, 1, 1024),
    "M1": Shape(1024, 4096, 16, 16, 16384),
    "L1": Shape(4096, 4096, 8, 4, 16384),
    "H1": Shape(1024, 4096, 64, 64, 65536),
    "C1": Shape(1024, 16384, 16, 0, 8192),
    "Z1": Shape(1024, 4096, 16, 0, 16384),
    "X1": Shape(1024, 4096, 64, 16, 16384),
}


class Case(NamedTuple):
    """One shape with its data on the device."""

    name: str
    shape: Shape
    x: Tensor
    seed_of: Tensor
    state: SeedTensors
    counts: list[int]

    @property
    def logical_bytes(self) -> int:
        """What has to be moved at least."""
        size = self.x.element_size()
        acting = (self.state.alpha != 0).cpu()
        rows = torch.where(acting, self.state.rank.cpu(), 0)
        rows = torch.where(self.state.blueprint.cpu() == int(Blueprint.NORM), acting.int(), rows)
        if self.counts:
            rows = torch.where(torch.tensor(self.counts) > 0, rows, 0)
        return 2 * self.x.numel() * size + 2 * int(rows.sum()) * self.state.down.shape[2] * size


def case(name: str) -> Case:
    """Fresh random data; Zipf's law with exponent 1.5 for Z1; all states and ranks for X1."""
    shape = SHAPES[name]
    like: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
    width = shape.columns // shape.seeds if name == "C1" else shape.columns
    state = SeedTensors(
        torch.randn(shape.seeds, shape.rank, width, **like) / width**0.5,
        torch.randn(shape.seeds, shape.rank, width, **like) / shape.rank**0.5,
        torch.rand(shape.seeds, device="cuda") + 0.1,
        torch.full((shape.seeds,), shape.rank, dtype=torch.int32, device="cuda"),
        torch.zeros(shape.seeds, dtype=torch.int32, device="cuda"),
    )
    if name == "X1":
        state.alpha[torch.rand(shape.seeds, device="cuda") > 0.3] = 0.0
        state.rank.copy_(torch.randint(4, 65, (shape.seeds,)))
        state.blueprint.copy_(torch.randint(0, 3, (shape.seeds,)))
    counts: list[int] = []
    seed_of = torch.zeros(0, dtype=torch.int32, device="cuda")
    if name != "C1":
        seed_of = torch.arange(shape.seeds).repeat_interleave(max(1, shape.each))
        if name == "Z1":
            weights = torch.arange(1, shape.seeds + 1).double() ** -1.5
            seed_of = torch.multinomial(weights, shape.tokens, replacement=True).sort().values
        counts = torch.bincount(seed_of, minlength=shape.seeds).tolist()
        seed_of = seed_of.int().cuda()
    x = torch.randn(shape.tokens, shape.columns, **like)
    return Case(name, shape, x, seed_of, state, counts)


def replayed(way: Way, replays: int = REPLAYS) -> float:
    """Median seconds of one replay of a CUDA graph of the call."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types here
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            way()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way()
    return evented(graph.replay, replays)


def evented(way: Way, replays: int) -> float:
    """Median seconds by device events."""
    way()
    timer: Any = torch.cuda.Event
    marks = [(timer(enable_timing=True), timer(enable_timing=True)) for _ in range(replays)]
    for begin, end in marks:
        begin.record()
        way()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(begin.elapsed_time(end) for begin, end in marks)) / 1e3


def tried(measure: Callable[[], float]) -> float | str:
    """Microseconds, or why there are none."""
    try:
        return round(measure() * 1e6, 2)
    except REFUSALS as refusal:
        torch.cuda.synchronize()
        return f"did not run: {type(refusal).__name__}: {str(refusal)[:200]}"


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 4 GB on the device."""
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / replayed(lambda: target.copy_(source))


def worst(case: Case) -> float:
    """Relative L2 error of the fused path, on a part that the reference can do in time."""
    if case.name == "C1":
        y, _ = seed_chunks(case.x[:64], case.state)
        want, _ = reference_chunks(
            case.x[:64].cpu(), SeedTensors(*(tensor.cpu() for tensor in case.state))
        )
        return float((y.cpu().double() - want).norm() / want.norm())
    y, _ = seed_tokens(case.x, case.seed_of, case.state)
    if not bool(torch.isfinite(y).all()):
        raise AssertionError("the output has places that nothing finite was written to")
    some = torch.randperm(case.shape.seeds)[:24].sort().values.cuda()
    mine = torch.isin(case.seed_of.long(), some)
    within = torch.searchsorted(some, case.seed_of.long()[mine]).cpu()
    part = SeedTensors(*(tensor[some].cpu() for tensor in case.state))
    want, _ = reference_tokens(case.x[mine].cpu(), within, part)
    return float((y[mine].cpu().double() - want).norm() / want.norm().clamp(min=1e-9))


def looped(case: Case) -> Tensor:
    """One seed after another, the counts known to the host."""
    y = torch.empty_like(case.x)
    first = 0
    for s, count in enumerate(case.counts):
        mine = case.x[first : first + count]
        if count:
            hidden = (mine @ case.state.down[s].T) * case.state.alpha[s].to(mine.dtype)
            torch.addmm(mine, hidden, case.state.up[s], out=y[first : first + count])
        first += count
    return y


def batched(case: Case) -> Way:
    """Compiled baddbmm on even blocks; chunks by a view."""
    shape, state = case.shape, case.state
    if case.name in {"Z1", "X1"}:
        raise ValueError("blocks or ranks are not even; padding is another problem")

    def product(x: Tensor, down: Tensor, up: Tensor, alpha: Tensor) -> Tensor:
        if case.name == "C1":
            by_seed = x.view(len(x), shape.seeds, -1).transpose(0, 1)
        else:
            by_seed = x.view(shape.seeds, shape.each, -1)
        hidden = torch.bmm(by_seed, down.transpose(1, 2)) * alpha[:, None, None].to(x.dtype)
        return torch.baddbmm(by_seed, hidden, up)

    compiled = torch.compile(product)
    return lambda: compiled(case.x, state.down, state.up, state.alpha)


def grouped(case: Case, most: int) -> Way:
    """Torch's grouped_mm over tokens in the order of seeds, at most so many groups a call."""
    if not case.counts:
        raise ValueError("chunks are no groups of rows")
    into = case.state.down.transpose(1, 2).contiguous()
    by_token = case.state.alpha[case.seed_of.long()][:, None].to(case.x.dtype)
    bounds = torch.tensor([0, *torch.tensor(case.counts).cumsum(0).tolist()])
    pieces = []
    for s in range(0, case.shape.seeds, most):
        last = min(s + most, case.shape.seeds)
        rows = slice(int(bounds[s]), int(bounds[last]))
        ends = (bounds[s + 1 : last + 1] - bounds[s]).int().cuda()
        pieces.append((slice(s, last), rows, ends))

    def run() -> None:
        for seeds, rows, ends in pieces:
            mine = case.x[rows]
            hidden = torch.nn.functional.grouped_mm(mine, into[seeds], offs=ends) * by_token[rows]
            torch.add(mine, torch.nn.functional.grouped_mm(hidden, case.state.up[seeds], offs=ends))

    return run


def peft(case: Case) -> float:
    """Peft's own batch of different adapters, less the base layer's time; it is no part of Seedbed."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - may be missing

    if case.name not in {"D1", "M1"}:
        raise ValueError("measured on D1 and M1 only")
    shape = case.shape
    width = shape.columns
    model: Any = torch.nn.Sequential(torch.nn.Linear(width, width, bias=False))
    for s in range(shape.seeds):
        config = LoraConfig(r=shape.rank, target_modules=["0"], init_lora_weights=True)
        model = inject_adapter_in_model(config, model, adapter_name=f"a{s}")
    model = model.to("cuda", torch.bfloat16).eval()
    x = case.x.view(shape.seeds, shape.each, width)
    names = [f"a{s}" for s in range(shape.seeds)]
    with torch.no_grad():
        base = evented(lambda: torch.nn.functional.linear(x, model[0].base_layer.weight), 5)
        return evented(lambda: model[0](x, adapter_names=names), 5) - base


def tune(case: Case, way: Way) -> dict[str, Any]:
    """Tries a few block sizes and leaves the best in place."""
    from seedbed.kernels import fused  # noqa: PLC0415 - needs Triton

    shape = case.shape
    narrow = case.name == "C1"
    kernel = "narrow" if narrow else "vector" if shape.tokens <= shape.seeds else "tiles"
    key = (kernel, shape.tokens, shape.seeds, shape.columns, case.state.down.shape[1])
    start = fused.blocks_for(*key)
    tries = {
        "narrow": [(64, 0, 0, 8, 3), (128, 0, 0, 8, 3), (128, 0, 0, 4, 2), (64, 0, 0, 4, 4)],
        "vector": [(1, 256, 256, 4, 4), (1, 512, 1024, 4, 4), (1, 1024, 1024, 8, 3)],
        "tiles": [(16, 64, 64, 4, 6), (16, 128, 128, 8, 4), (16, 64, 128, 4, 4), (16, 256, 128, 4, 3),
                  (16, 128, 256, 8, 3)],
    }[kernel]  # fmt: skip
    found: dict[str, float | str] = {str(tuple(start)): tried(lambda: replayed(way, 10))}
    sizes = {str(tuple(start)): start}
    for numbers in tries:
        fused.tuned[key] = fused.Blocks(*numbers)
        sizes[str(numbers)] = fused.tuned[key]
        found[str(numbers)] = tried(lambda: replayed(way, 10))
    best = min((n for n, t in found.items() if isinstance(t, float)), key=lambda n: float(found[n]),
               default=str(tuple(start)))  # fmt: skip
    fused.tuned[key] = sizes[best]
    return {"blocks (tokens, read, write, warps, stages)": best, "tried_us": found}


def one(name: str, copied: float, begun: float) -> dict[str, Any]:
    """Everything about one shape."""
    made = case(name)
    plan = None
    if name != "C1":
        plan = plan_route(made.seed_of, made.x.shape[:1], made.shape.seeds)

    def ours(*, telemetry: bool = False, planned: bool = True) -> Way:
        if name == "C1":
            return lambda: seed_chunks(made.x, made.state, telemetry=telemetry)
        route = plan if planned else None
        return lambda: seed_tokens(
            made.x, made.seed_of, made.state, plan=route, telemetry=telemetry
        )

    error = worst(made)
    tuned = tune(made, ours())
    took = replayed(ours())
    rivals: dict[str, float | str] = {}
    if made.counts and name != "X1":
        rivals["loop, eager"] = tried(lambda: evented(lambda: looped(made), 3))
        rivals["loop, graphed"] = tried(lambda: replayed(lambda: looped(made), 5))
    rivals["baddbmm, compiled"] = tried(lambda: replayed(batched(made)))
    rivals["grouped_mm"] = tried(lambda: replayed(grouped(made, made.shape.seeds)))
    rivals[f"grouped_mm, {WHOLE} groups a call"] = tried(lambda: replayed(grouped(made, WHOLE)))
    if time.perf_counter() - begun < LIMIT_S / 2:
        rivals["peft"] = tried(lambda: peft(made))
    ran = {n: t for n, t in rivals.items() if isinstance(t, float)}
    best = min(ran, key=ran.__getitem__) if ran else None
    return {
        "microseconds": round(took * 1e6, 2),
        "relative_error": error,
        "logical_gb": round(made.logical_bytes / 1e9, 4),
        "share_of_copy": round(made.logical_bytes / took / copied, 4),
        "with_telemetry_us": tried(lambda: replayed(ours(telemetry=True))),
        "with_sorting_us": tried(lambda: replayed(ours(planned=False))),
        "baselines_us": rivals,
        "best_baseline": best,
        "vs_best_baseline": round(ran[best] / (took * 1e6), 3) if best else None,
        "block_sizes": tuned,
    }


def at_rest() -> dict[str, Any]:
    """A host layer alone, and with 1,024 seeds at rest."""
    made = case("M1")
    host = torch.nn.Linear(4096, 4096, device="cuda", dtype=torch.bfloat16)
    made.state.alpha.zero_()
    with torch.no_grad():
        alone = replayed(lambda: host(made.x))
        rest = replayed(lambda: seed_tokens(host(made.x), made.seed_of, made.state, acting=False))
    return {"host_us": round(alone * 1e6, 2), "share_of_host": round(rest / alone, 4)}


def swapped() -> dict[str, Any]:
    """Kernels compiled while other blueprints, ranks and shares take the seeds' places, in one graph."""
    import triton  # noqa: PLC0415 - needs Triton

    made = case("M1")
    plan = plan_route(made.seed_of, made.x.shape[:1], made.shape.seeds)
    seed_tokens(made.x, made.seed_of, made.state, plan=plan)
    torch.cuda.synchronize()
    compiled: list[object] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **_: compiled.append(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = seed_tokens(made.x, made.seed_of, made.state, plan=plan)
    errors = []
    for blueprint in (Blueprint.MLP, Blueprint.NORM, Blueprint.LOW_RANK):
        made.state.blueprint.fill_(int(blueprint))
        made.state.rank.copy_(torch.randint(4, 17, (made.shape.seeds,)))
        graph.replay()
        few = slice(0, 16 * 8)
        part = SeedTensors(*(tensor[:8].cpu() for tensor in made.state))
        want, _ = reference_tokens(made.x[few].cpu(), made.seed_of[few].cpu(), part)
        errors.append(float((y[few].cpu().double() - want).norm() / want.norm()))
    triton.knobs.runtime.jit_post_compile_hook = None
    return {"compiled": len(compiled), "relative_errors": errors}


def model() -> dict[str, Any]:
    """12 encoder layers of width 768, 64 sequences of 128 tokens, 1,024 seeds of rank 8 in each layer."""
    like: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
    layers = [
        torch.nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, **like).eval()
        for _ in range(12)
    ]
    seeds = 1024
    states = [
        SeedTensors(
            torch.randn(seeds, 8, 768, **like) / 28, torch.randn(seeds, 8, 768, **like) / 28,
            torch.ones(seeds, device="cuda"),
            torch.full((seeds,), 8, dtype=torch.int32, device="cuda"),
            torch.zeros(seeds, dtype=torch.int32, device="cuda"),
        )
        for _ in layers
    ]  # fmt: skip
    x = torch.randn(64, 128, 768, **like)
    seed_of = torch.randint(0, seeds, (64,), device="cuda", dtype=torch.int32)

    def forward(*, seeded: bool) -> Tensor:
        y = x
        plan = plan_route(seed_of, y.shape[:2], seeds) if seeded else None
        for each, state in zip(layers, states, strict=True):
            y = each(y)
            if seeded:
                y, _ = seed_tokens(y, seed_of, state, plan=plan)
        return y

    out: dict[str, Any] = {}
    with torch.no_grad():
        for name, seeded in (("host", False), ("with 12 x 1024 seeds", True)):
            forward(seeded=seeded)
            torch.cuda.synchronize()
            taken = []
            for _ in range(200):
                begun = time.perf_counter()
                forward(seeded=seeded)
                torch.cuda.synchronize()
                taken.append((time.perf_counter() - begun) * 1e3)
            cuts = statistics.quantiles(taken, n=100, method="inclusive")
            out[name] = {"p50_ms": round(cuts[49], 3), "p99_ms": round(cuts[98], 3)}
        out["utilisation_percent"] = utilisation(lambda: forward(seeded=True))
    return out


def utilisation(way: Way) -> float:
    """Mean of what nvidia-smi shows while the call repeats for three seconds."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    seen, ends = [], time.perf_counter() + 3
    while time.perf_counter() < ends:
        asked = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        while asked.poll() is None:
            way()
        torch.cuda.synchronize()
        assert asked.stdout is not None
        seen.append(float(asked.stdout.read().split()[0]))
    return statistics.mean(seen[1:] or seen)


def measured() -> dict[str, Any] | str:
    """All shapes and the three other checks; or why there is no figure."""
    if not torch.cuda.is_available():
        return "not measured: no CUDA device at hand"
    begun = time.perf_counter()
    device = torch.cuda.get_device_properties(0)
    copied = copy_bandwidth()
    result: dict[str, Any] = {
        "device": device.name, "multiprocessors": device.multi_processor_count,
        "torch": torch.__version__, "copy_gb_per_s": round(copied / 1e9, 1),
    }  # fmt: skip
    jobs: dict[str, Callable[[], Any]] = {
        **{name: functools.partial(one, name, copied, begun) for name in SHAPES},
        "at_rest": at_rest, "swap": swapped, "model_12x768": model,
    }  # fmt: skip
    with torch.no_grad():
        for name, job in jobs.items():
            if time.perf_counter() - begun > LIMIT_S:
                result[name] = f"not measured: {LIMIT_S} s were over"
                continue
            try:
                result[name] = job()
            except REFUSALS as refusal:
                result[name] = f"failed: {type(refusal).__name__}: {str(refusal)[:500]}"
            torch.cuda.empty_cache()
            print(name, result[name], flush=True)
    table(result)
    result["seconds"] = round(time.perf_counter() - begun, 1)
    return result


def table(result: dict[str, Any]) -> None:
    """One line a shape."""
    print(f"{'shape':6}{'us':>10}{'of copy':>9}{'error':>10}{'x best':>8}  best baseline")
    for name in SHAPES:
        line = result[name]
        if isinstance(line, str):
            print(f"{name:6}{line}")
            continue
        print(
            f"{name:6}{line['microseconds']:>10}{line['share_of_copy']:>9}"
            f"{line['relative_error']:>10.1e}{line['vs_best_baseline'] or '-':>8}"
            f"  {line['best_baseline']}"
        )
