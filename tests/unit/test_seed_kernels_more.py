"""Blueprints outside the fused kernels: attention over a sequence, and a user's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.kernels import (
    Blueprint,
    SeedTensors,
    attend_chunks,
    attend_tokens,
    chunk_width,
    custom_chunks,
    seed_chunks,
    seed_tokens,
)
from tests.seeds import layer


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    torch.manual_seed(5)


def attended(x: Tensor, state: SeedTensors, s: int) -> Tensor:
    """One seed's formula for one sequence (L, w), written out in fp64."""
    width = x.shape[1]
    down, up = state.down[s, :, :width].double(), state.up[s, :, :width].double()
    head = len(down) // 3
    query, key, value = (x.double() @ down[i * head : (i + 1) * head].T for i in range(3))
    weights = torch.softmax(query @ key.T / head**0.5, 1)
    return state.alpha[s].double() * (weights @ value) @ up[:head]


@pytest.mark.parametrize("columns", [40, 43])
def test_attention_of_chunks(columns: int) -> None:
    state = layer(8, 7, chunk_width(columns, 8), torch.float32)
    state.blueprint.copy_(torch.tensor([3, 0, 3, 1, 3, 2, 3, 4]))
    state.alpha.copy_(torch.tensor([0.5, 1, 1, 0, 0.0, 1, 0.2, 1]))
    x = torch.randn(2, 6, columns)
    fused, _ = seed_chunks(x, state)
    y = attend_chunks(x, fused, state, torch.tensor([0, 2, 3, 4, 6]))
    parts, before = x.tensor_split(8, -1), fused.tensor_split(8, -1)
    for s, out in enumerate(y.tensor_split(8, -1)):
        if s in {0, 2, 6}:
            for sequence in range(2):
                want = parts[s][sequence] + attended(parts[s][sequence], state, s)
                assert torch.allclose(out[sequence].double(), want, atol=1e-5)
        else:
            assert torch.equal(out, before[s])


def test_attention_of_sequences() -> None:
    state = layer(4, 6, 10, torch.float32, resting=0.0)
    state.blueprint.copy_(torch.tensor([3, 0, 3, 3]))
    state.alpha[3] = 0.0
    x, seed_of = torch.randn(6, 5, 10), torch.tensor([2, 1, 0, 3, -1, 4])
    fused, _ = seed_tokens(x, seed_of, state)
    y = attend_tokens(x, fused, seed_of, state)
    for sequence, s in enumerate(seed_of.tolist()):
        if s in {0, 2}:
            want = x[sequence] + attended(x[sequence], state, s)
            assert torch.allclose(y[sequence].double(), want, atol=1e-5)
        else:
            assert torch.equal(y[sequence], fused[sequence])


def test_attention_learns_and_needs_three_rows() -> None:
    state = layer(2, 3, 4, torch.float32, resting=0.0)
    state.blueprint.fill_(int(Blueprint.ATTENTION))
    leaf = state._replace(down=state.down.clone().requires_grad_())
    x = torch.randn(1, 5, 8)
    y = attend_chunks(x, seed_chunks(x, leaf)[0], leaf, torch.arange(2))
    torch.autograd.backward(y.square().sum())
    assert leaf.down.grad is not None
    assert float(leaf.down.grad.norm()) > 0
    with pytest.raises(InvalidError, match="3 or more rows"):
        attend_chunks(x, x, layer(2, 2, 4, torch.float32), torch.arange(2))


def test_a_blueprint_of_the_users_own() -> None:
    state = layer(6, 2, 5, torch.float32, resting=0.0)
    state.blueprint.copy_(torch.tensor([4, 0, 4, 4, 1, 2]))
    state.alpha[3] = 0.0
    which, scale = torch.tensor([0, 2, 3, 5]), torch.randn(4, 5)
    x = torch.randn(3, 7, 30)
    fused, _ = seed_chunks(x, state)

    def squared(parameters: dict[str, Tensor], mine: Tensor) -> Tensor:
        return mine.square() * parameters["scale"]

    share = torch.where(state.blueprint[which] == Blueprint.USER, state.alpha[which], 0.0)
    columns = which[:, None] * 5 + torch.arange(5)
    y, change = custom_chunks(x, fused, share, columns, squared, {"scale": scale})
    assert float(change[0]) == pytest.approx(float((y - x)[..., :5].square().sum()), rel=1e-3)
    assert change[2:].tolist() == [0.0, 0.0]
    for s in range(6):
        mine = slice(5 * s, 5 * s + 5)
        want = fused[..., mine]
        if s in {0, 2}:
            want = x[..., mine] + state.alpha[s] * x[..., mine].square() * scale[s // 2]
        assert torch.allclose(y[..., mine], want, atol=1e-6)
