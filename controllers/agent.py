"""`Agent`: publishes its program for the engine and says whether workers can host it."""

from __future__ import annotations

from datetime import datetime

from seedbed.controllers.conditions import Claim, holds, ready, stalled, waiting
from seedbed.controllers.objects import pool_key, status
from seedbed.controllers.plan import Defaults, Observed, Plan, Raw, Withdraw
from seedbed.controllers.pool import publish
from seedbed.crds.agent import AgentSpec
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import agent_setting
from seedbed.crds.signature import Signature


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:  # noqa: ARG001 -- one signature for all kinds
    """Decide what an Agent needs: its live setting and its status."""
    key = observed.key
    setting = agent_setting(key.namespace, key.name)
    withdraw = (Withdraw(setting),) if setting in observed.settings else ()
    if observed.object is None:
        return Plan(effects=withdraw)
    obj = observed.object
    spec = AgentSpec.model_validate(obj["spec"])
    try:
        signature = Signature.parse(spec.signature).with_strategy(spec.strategy)
    except InvalidError as error:
        claims = _accepted(stalled("InvalidSignature", str(error)), accepted=False)
        return Plan(effects=withdraw, status=status(obj, claims, now))
    pool = observed.references.get(pool_key(obj, spec.pool.name))
    return Plan(
        effects=publish(setting, spec.model_dump_json(by_alias=True), observed),
        status=status(
            obj,
            _accepted(_claims(spec, pool, observed.workers), accepted=True),
            now,
            inputs=[field.name for field in signature.inputs],
            outputs=[field.name for field in signature.outputs],
            workers=observed.workers,
        ),
    )


def _accepted(claims: tuple[Claim, ...], *, accepted: bool) -> tuple[Claim, ...]:
    reason = "Accepted" if accepted else claims[0].reason
    return (*claims, Claim("Accepted", accepted, reason))


def _claims(spec: AgentSpec, pool: Raw | None, workers: int) -> tuple[Claim, ...]:
    if pool is None:
        return waiting("PoolNotFound", f"spec.pool.name: Pool {spec.pool.name!r} does not exist")
    if spec.suspend:
        return ready("Suspended", "suspended: steps that need the Agent wait")
    if not holds(pool, "Ready"):
        return waiting("PoolNotReady", f"Pool {spec.pool.name!r} is not ready")
    return ready("Available", f"{workers} workers can host the Agent")
