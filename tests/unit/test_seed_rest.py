"""What a layer costs whose seeds are all at rest: nothing on the device, whatever its routing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.layer import Routing
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft


class _Launched(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """The operators that run meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def _of(call: Any) -> list[str]:
    launched = _Launched()
    with launched:
        call()
    return launched.names


@pytest.mark.req("ESP-18")
@pytest.mark.parametrize("routing", ["chunk", "token"])
def test_a_dormant_layer_launches_nothing_but_its_host(routing: Routing) -> None:
    torch.manual_seed(3)
    host = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12))
    x = torch.randn(4, 12)
    route = torch.tensor([0, 1, 2, 3]) if routing == "token" else None

    def alone() -> None:
        with torch.inference_mode():
            host(x)

    before = _of(alone)
    model = attach(host, AttachSpec(("0", "2"), 6, routing), Features.all_on())
    assert _of(lambda: model.forward(x, route=route)) == before
    model.state.core[:, Core.STAGE] = Stage.FOSSILISED
    model.state.core[:, Core.BLUEPRINT] = 1
    model.state.graft[:, Graft.ALPHA] = 1.0
    model.refresh()
    assert len(_of(lambda: model.forward(x, route=route))) > len(before)
