"""The HTTP pages of a pod of a SeedLayer.

POST /v1/infer       {"inputs": rows, "route": [seed, ...]} -> {"outputs": rows, "epoch": n, "seconds": s}
POST /v1/train       {"inputs": rows, "targets": [...], "route": [...]}: rows to learn from, once
GET  /v1/model       what is served
GET  /v1/seeds       seeds by layer and stage; the ones that are not dormant with their health and moves
GET  /v1/decisions   the decision log, `?after=NUMBER`
GET  /v1/state       a hash of every tensor that a checkpoint holds

Where the SeedLayer names a token, every page but the first two of the health port asks for it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson
import torch
from aiohttp import web
from torch import Tensor

from seedbed.crds.errors import ConflictError, InvalidError, UnavailableError
from seedbed.crds.seed_features import FEATURES
from seedbed.runtime.api.access import UnauthenticatedError
from seedbed.runtime.api.answers import answer, bearer_token, errors_as_answers
from seedbed.runtime.seeds.data import Collected
from seedbed.runtime.seeds.figures import SeedMetrics, Served
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.progress import Progress, stage_key
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Metric
from seedbed.runtime.seeds.training import Batch

LARGEST_BODY = 64 * 1024 * 1024
SHOWN = 1000
"""Seeds that one page lists."""
_Page = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SeedPages:
    """The pages of one pod.

    Attributes:
        host: what is served; None while nothing is.
        trains: whether rows to learn from are taken here.

    Args:
        token: what callers must show; empty for nothing.
    """

    def __init__(
        self,
        progress: Progress,
        served: Served,
        metrics: SeedMetrics,
        collected: Collected,
        *,
        trains: bool,
        token: str = "",
    ) -> None:
        self.host: Host | None = None
        self.trains = trains
        self._progress, self._served, self._metrics = progress, served, metrics
        self._collected = collected
        self._token = token

    def app(self) -> web.Application:
        """The pages as an application."""
        app = web.Application(
            client_max_size=LARGEST_BODY, middlewares=[errors_as_answers, self._checked]
        )
        app.add_routes(
            [
                web.post("/v1/infer", self.infer),
                web.post("/v1/train", self.train),
                web.get("/v1/model", self.model),
                web.get("/v1/seeds", self.seeds),
                web.get("/v1/decisions", self.decisions),
                web.get("/v1/state", self.state),
            ]
        )
        return app

    @property
    def _checked(self) -> Any:
        @web.middleware
        async def checked(request: web.Request, handler: _Page) -> web.StreamResponse:
            shown = bearer_token(request)
            if self._token and not hmac.compare_digest(shown.encode(), self._token.encode()):
                raise UnauthenticatedError("this SeedLayer asks for its token")
            return await handler(request)

        return checked

    def _loaded(self) -> Host:
        if self.host is None:
            why = self._progress.message or "the model is being loaded"
            raise UnavailableError(why, retry_after=1.0)
        return self.host

    async def infer(self, request: web.Request) -> web.Response:
        """Ask the model."""
        host = self._loaded()
        body = await _body(request)
        inputs = _inputs(body)
        try:
            found = await host.answer(inputs, _route(body, host))
        except (InvalidError, UnavailableError) as error:
            self._progress.errors += 1
            self._metrics.errors.labels(error.code).inc()
            raise
        rows = len(inputs[0])
        self._served.add(found.seconds, rows)
        self._metrics.forward.observe(found.seconds)
        self._metrics.examples.inc(rows)
        return answer(
            {
                "outputs": found.output.tolist(),
                "epoch": host.model.epoch,
                "seconds": found.seconds,
            }
        )

    async def train(self, request: web.Request) -> web.Response:
        """Take rows to learn from; they are trained on with the next epoch."""
        host = self._loaded()
        if not self.trains:
            raise ConflictError("this pod only serves: send what is to be learnt to the first one")
        if host.data is not None or host.unfit is not None:
            raise ConflictError("spec.data says what is trained on: rows of callers are not taken")
        if not host.model.layers:
            raise ConflictError("no seeds are attached: the feature chunked_architecture is off")
        body = await _body(request)
        inputs, targets = _inputs(body), _array(body, "targets")
        if len(inputs[0]) != len(targets):
            raise InvalidError("targets", "expected one for each row of the inputs")
        route = _route(body, host)
        # What the model or its loss refuse must not spoil an epoch.
        found = await host.answer(inputs, route)
        self._collected.check(found.output, targets)
        device = host.model.device
        batch = Batch(
            tuple(each.to(device) for each in found.inputs),
            targets.to(device),
            None if route is None else route.to(device),
        )
        return answer({"kept": self._collected.take(batch)}, status=202)

    async def model(self, _: web.Request) -> web.Response:
        """What is served."""
        host = self._loaded()
        parameters, added = host.model.parameters()
        return answer(
            {
                "device": str(host.model.device),
                "features": [name for name in FEATURES if getattr(host.features, name)],
                "layers": [
                    {"name": layer.name, "seeds": layer.seeds, "columns": layer.columns[1]}
                    for layer in host.model.layers
                ],
                "blueprints": [each.name for each in host.model.blueprints],
                "parameters": parameters,
                "newParameters": added,
                "epoch": host.model.epoch,
                "accuracies": host.model.accuracies[-SHOWN:],
                "resumed": _resumed(host),
                "group": {"processes": host.group.size, "seeds": host.group.mode},
            }
        )

    async def seeds(self, _: web.Request) -> web.Response:
        """Seeds by layer and stage, and the ones that are not dormant."""
        model = self._loaded().model
        awake = (model.state.stage != Stage.DORMANT).nonzero().flatten().tolist()
        return answer(
            {
                "epoch": model.epoch,
                "stages": {stage_key(stage): n for stage, n in model.state.counts().items() if n},
                "layers": [{"name": span.name, "seeds": span.count} for span in model.spans],
                "awake": [self._seed(seed) for seed in awake[:SHOWN]],
                "more": max(0, len(awake) - SHOWN),
            }
        )

    def _seed(self, seed: int) -> dict[str, Any]:
        model = self._loaded().model
        state = model.state
        core, metrics = state.core[seed].tolist(), state.metrics[seed].tolist()
        span = next(one for one in model.spans if one.first <= seed < one.first + one.count)
        planted = core[Core.BLUEPRINT]
        return {
            "layer": span.name,
            "seed": seed - span.first,
            "stage": stage_key(Stage(core[Core.STAGE])),
            "blueprint": model.blueprints[planted - 1].name if planted else "",
            "epochs": core[Core.EPOCHS],
            "failures": core[Core.FAILURES],
            "alpha": float(state.alpha[seed]),
            "health": {each.name.lower(): metrics[each] for each in Metric},
            "moves": [
                {"epoch": epoch, "from": stage_key(before), "to": stage_key(after)}
                for epoch, before, after in state.history(seed)
            ],
        }

    async def decisions(self, request: web.Request) -> web.Response:
        """The decision log, oldest first."""
        try:
            after = int(request.query.get("after", "0"))
        except ValueError as error:
            raise InvalidError("after", "expected a number") from error
        kept = [one for one in self._progress.decisions if one["number"] > after]
        return answer({"decisions": kept, "total": self._progress.decided})

    async def state(self, _: web.Request) -> web.Response:
        """A hash of the state."""
        host = self._loaded()
        epoch, digest = host.model.epoch, await asyncio.to_thread(host.digest)
        return answer({"epoch": epoch, "digest": digest})


def _resumed(host: Host) -> dict[str, Any] | None:
    if host.resumed is None:
        return None
    return {"checkpoint": host.resumed.number, "digest": host.resumed_digest}


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise InvalidError("body", f"must be JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidError("body", "expected an object")
    return body


def _inputs(body: dict[str, Any]) -> tuple[Tensor, ...]:
    """The model's inputs: `inputs` is one array, or an object of arrays in the model's order."""
    given = body.get("inputs")
    if isinstance(given, dict):
        found = tuple(_tensor(value, f"inputs.{name}") for name, value in given.items())
    else:
        found = (_array(body, "inputs"),)
    if not found or any(each.dim() == 0 or len(each) != len(found[0]) for each in found):
        raise InvalidError("inputs", "expected arrays with the same number of rows, at least one")
    return found


def _array(body: dict[str, Any], name: str) -> Tensor:
    if name not in body:
        raise InvalidError(name, "is required")
    return _tensor(body[name], name)


def _tensor(value: Any, field: str) -> Tensor:
    """Finite numbers as float32 or, where all are whole, int64."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidError(field, "expected numbers, in rows of one length") from error
    if array.dtype.kind not in "fiub" or array.size == 0:
        raise InvalidError(field, "expected numbers, in rows of one length")
    kind = np.float32 if array.dtype.kind == "f" else np.int64
    with np.errstate(over="ignore"):
        found = array.astype(kind)
    if not np.isfinite(found).all():
        raise InvalidError(field, "expected finite numbers")
    return torch.from_numpy(found)


def _route(body: dict[str, Any], host: Host) -> Tensor | None:
    if body.get("route") is None or not host.model.layers:
        return None  # the plain model has no seeds to name
    route = _tensor(body["route"], "route")
    seeds = max((layer.seeds for layer in host.model.layers), default=0)
    if route.is_floating_point() or bool((route < -1).any()) or bool((route >= seeds).any()):
        raise InvalidError("route", f"expected seeds from 0 to {seeds - 1}, or -1 for none")
    return route
