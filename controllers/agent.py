"""Agent: its spec published to the workers that host it."""

from __future__ import annotations

from datetime import datetime

from seedbed.controllers.conditions import Verdict, condition, ready, resting, waiting
from seedbed.controllers.plan import Defaults, Key, Observed, Plan, Raw
from seedbed.controllers.reading import publish, read_spec, refused, told, withdraw
from seedbed.crds.addresses import agent_setting
from seedbed.crds.agent import AgentSpec
from seedbed.crds.errors import InvalidError
from seedbed.crds.signature import Signature


def reconcile(observed: Observed, now: datetime, defaults: Defaults) -> Plan:  # noqa: ARG001  # one form for all kinds
    """Publishes the Agent where its Pool exists; ready when the Pool is."""
    setting = agent_setting(observed.key.namespace, observed.key.name)
    agent = observed.object
    if agent is None:
        return Plan(effects=withdraw(observed, setting))
    try:
        spec = read_spec(AgentSpec, agent)
        signature = Signature.parse(spec.signature).with_strategy(spec.strategy)
    except InvalidError as error:
        return refused(agent, error, now, effects=withdraw(observed, setting))
    pool = observed.references.get(Key("Pool", observed.key.namespace, spec.pool.name))
    workers = 0 if pool is None else int((pool.get("status") or {}).get("workers", 0))
    return told(
        agent,
        {
            **_verdicts(spec, pool, workers),
            "Accepted": Verdict("True", "Valid", "the signature can be read"),
        },
        now,
        fields={
            "inputs": [field.name for field in signature.inputs],
            "outputs": [field.name for field in signature.outputs],
            "workers": workers,
        },
        effects=(withdraw(observed, setting) if pool is None else publish(observed, setting, spec)),
    )


def _verdicts(spec: AgentSpec, pool: Raw | None, workers: int) -> dict[str, Verdict]:
    name = spec.pool.name
    if pool is None:
        return waiting("PoolNotFound", f"spec.pool.name: there is no Pool `{name}` yet")
    if spec.suspend:
        return resting("Suspended", "spec.suspend is set: steps that need the Agent wait")
    state = condition(pool, "Ready")
    if state.get("status") != "True":
        reason = state.get("message") or "it has no status yet"
        return waiting("PoolNotReady", f"Pool `{name}` is not ready: {reason}")
    if workers == 0:
        return ready("PoolScaledToZero", f"hosted on Pool `{name}`, which has no workers now")
    return ready("Available", f"hosted on the {workers} workers of Pool `{name}`")
