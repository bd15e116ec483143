"""Two processes train one model: they agree with one process, and what they keep fits one as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seedbed.runtime.seeds import checkpoint
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.group import Alone, Mode
from seedbed.runtime.seeds.layer import Reads, Routing
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.policy import Decision, Limits
from seedbed.runtime.seeds.rules import Rules
from seedbed.runtime.seeds.shards import store_shard
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Graft, SeedState
from seedbed.runtime.seeds.training import Batch, Data
from tests.seed_groups import together

BLUEPRINTS = (Growth("thin", rank=2), Growth("net", kind="mlp", rank=3), Growth("norm", "norm"))
SEEDS = 5
WAY = (Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING)
OUT = (Stage.STABILISATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILISED)


def seeded(group: Alone, routing: Routing) -> SeededModel:
    """Two layers of 21 columns, which five seeds do not divide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        host = nn.Sequential(nn.Linear(6, 21), nn.Tanh(), nn.Linear(21, 21), nn.Linear(21, 3))
    reads: Reads = "input" if routing == "token" else "output"
    spec = AttachSpec(("0", "2"), SEEDS, routing, reads, BLUEPRINTS)
    return attach(host, spec, Features.all_on(), group=group)


def batches(routing: Routing, count: int, rows: int) -> tuple[Batch, ...]:
    dice = torch.Generator().manual_seed(4)
    found = []
    for _ in range(count):
        x = torch.randn(rows, 6, generator=dice)
        route = torch.randint(-1, SEEDS, (rows,), generator=dice)
        found.append(Batch((x,), x[:, :3].argmax(dim=1), route if routing == "token" else None))
    return tuple(found)


def lead(model: SeededModel, seed: int, way: tuple[Stage, ...], blueprint: str) -> None:
    for target in way:
        layer, slot = model.layers[seed // SEEDS].name, seed % SEEDS
        source = Stage(int(model.state.stage[seed]))
        move = Decision(
            0, seed, layer, slot, source, target, "test", "asked", {}, blueprint, "stability"
        )
        assert model.apply([move])


def awake(model: SeededModel) -> None:
    """Seeds of every blueprint in several stages, in both layers and in both halves."""
    kinds = ("thin", "net", "norm")
    ways = (WAY[:2], WAY, WAY + OUT[:1], WAY + OUT[:3], WAY + OUT)
    for seed in range(2 * SEEDS):
        if seed % 4 != 3:
            lead(model, seed, ways[seed % len(ways)], kinds[seed % 3])
    dice = torch.Generator().manual_seed(7)
    for layer in model.layers:
        values = torch.randn(SEEDS, *layer.up.shape[1:], generator=dice) / 4
        with torch.no_grad():
            mine = values[layer.held.start : layer.held.stop]
            layer.up.copy_(torch.where(layer.down.abs().sum((1, 2), keepdim=True) > 0, mine, 0.0))


def whole(model: SeededModel) -> dict[str, Tensor]:
    found = dict(model.state.tensors())
    for layer in model.layers:
        found |= {f"{layer.name}.down": layer.down, f"{layer.name}.up": layer.up}
    return found


def trained(group: Alone, routing: Routing) -> dict[str, Tensor]:
    """A few epochs in which seeds learn, are blended in and are decided about."""
    model = seeded(group, routing)
    awake(model)
    # The first batch has one row, so that one process has nothing to learn from it.
    learnt = (*batches(routing, 1, 1), *batches(routing, 6, 13))
    data = Data(lambda _: learnt, batches(routing, 3, 31), rate=0.02)
    policy, told = Rules(Limits(blueprints=("thin",))), []
    for _ in range(3):
        seen = model.train_epoch(data)
        told.append(torch.tensor([seen.loss, seen.accuracy, seen.samples]))
        model.apply(policy.decide(seen, model.state))
    with torch.no_grad():
        batch = data.held_out[0]
        answer = model.forward(*batch.inputs, route=batch.route)
    return {**whole(model), "told": torch.stack(told), "answer": answer.clone()}


def chunks(group: Alone, _: Path) -> Mapping[str, Tensor]:
    return trained(group, "chunk")


def tokens(group: Alone, _: Path) -> Mapping[str, Tensor]:
    return trained(group, "token")


def alike(one: Tensor, other: Tensor, name: str) -> None:
    torch.testing.assert_close(
        other, one, rtol=2e-4, atol=2e-5, equal_nan=True, msg=lambda said: f"{name}: {said}"
    )


WORK = {"chunk": chunks, "token": tokens}


@pytest.mark.parametrize("routing", ["chunk", "token"])
@pytest.mark.parametrize("mode", ["replicated", "sharded"])
def test_two_processes_learn_what_one_learns(mode: Mode, routing: Routing, tmp_path: Path) -> None:
    alone = trained(Alone(), routing)
    first, second = together(2, mode, WORK[routing], tmp_path)
    for name, expected in alone.items():
        weights = name.endswith((".down", ".up"))
        if mode == "sharded" and weights:
            alike(expected, torch.cat((first[name], second[name])), name)
            assert len(first[name]) == 2
            continue
        alike(expected, first[name], name)
        assert torch.equal(first[name].nan_to_num(7), second[name].nan_to_num(7)), name
    assert bool((alone["graft"][:, Graft.GRADIENT] > 0).any()), "something was learnt"


def kept(group: Alone, folder: Path) -> Mapping[str, Tensor]:
    """What each process of a group has, which then writes a checkpoint."""
    model = seeded(group, "chunk")
    awake(model)
    model.train_epoch(Data(lambda _: batches("chunk", 2, 13), batches("chunk", 1, 31)))
    place = CheckpointPlace(str(folder), "team.small")
    store_shard(model, place, 1)
    if group.leads:
        place.store(1, model.save, 3)
    else:
        checkpoint.note(model)
    return whole(model) | model.optimiser.tensors()


def restored(group: Alone, folder: Path) -> Mapping[str, Tensor]:
    model = seeded(group, "chunk")

    def read(path: Path) -> None:
        model.load(path)

    assert CheckpointPlace(str(folder), "team.small").newest(read)
    return whole(model) | model.optimiser.tensors()


def test_two_shards_come_back_as_one_and_as_three(tmp_path: Path) -> None:
    """Bit for bit: the same tensors, cut elsewhere."""
    parts = together(2, "sharded", kept, tmp_path)
    names = sorted(file.name for file in (tmp_path / "team.small").iterdir())
    assert names == [
        "seeds-0000000001.0-of-2.safetensors",
        "seeds-0000000001.1-of-2.safetensors",
        "seeds-0000000001.safetensors",
    ]
    state = set(SeedState.dormant(1).tensors())
    for found in ([restored(Alone(), tmp_path)], together(3, "sharded", restored, tmp_path)):
        for name in parts[0]:
            cut = [[each[name] for each in some] for some in (parts, found)]
            one, other = (some[0] if name in state else torch.cat(some) for some in cut)
            assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name
    (tmp_path / "team.small" / names[1]).unlink()
    place = CheckpointPlace(str(tmp_path), "team.small")
    assert place.newest(look) is None, "without a shard it is none"


def once(group: Alone, routing: Routing) -> dict[str, Tensor]:
    model = seeded(group, routing)
    awake(model)
    (batch,) = batches(routing, 1, 40)
    return {"y": model.forward(*batch.inputs, route=batch.route).clone()}


def once_chunks(group: Alone, _: Path) -> Mapping[str, Tensor]:
    return once(group, "chunk")


def once_tokens(group: Alone, _: Path) -> Mapping[str, Tensor]:
    return once(group, "token")


@pytest.mark.parametrize(("routing", "work"), [("chunk", once_chunks), ("token", once_tokens)])
def test_shards_answer_what_the_whole_answers(
    routing: Routing, work: object, tmp_path: Path
) -> None:
    expected = once(Alone(), routing)["y"]
    for found in together(3, "sharded", work, tmp_path):  # type: ignore[arg-type]  # one of the two
        torch.testing.assert_close(found["y"], expected, rtol=1e-6, atol=1e-6)


def look(path: Path) -> None:
    """Whether a checkpoint is whole."""
    checkpoint.about(path)
