"""Pool: its Deployment, its status, the spec published."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.controllers.plan import Observed, Publish, Withdraw
from seedbed.controllers.pool import reconcile
from tests.unit.controllers.objects import (
    DEFAULTS,
    LATER,
    NOW,
    after,
    look,
    made,
    message,
    quiet,
    verdict,
)


def deployment(ready: int, generation: int = 1, **told: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), ready)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "general-workers",
            "namespace": "team",
            "uid": "d",
            "generation": generation,
        },
        "status": {"observedGeneration": 1, **counts, **told},
    }


def told(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    said = {"type": kind, "status": status, "reason": reason, "message": message}
    return {"conditions": [said]}


QUOTA = told("ReplicaFailure", "True", "FailedCreate", "pods are forbidden: exceeded quota: small")
LATE = told("Progressing", "False", "ProgressDeadlineExceeded", "ReplicaSet x has timed out")


@pytest.mark.parametrize(
    ("child", "condition", "reason", "says"),
    [
        (deployment(2, generation=2), "Reconciling", "RollingOut", "0 of 2"),
        (deployment(2, updatedReplicas=1, replicas=3), "Reconciling", "RollingOut", "1 of 2"),
        (deployment(2, replicas=3), "Reconciling", "RollingOut", "2 of 2"),
        (deployment(1, **QUOTA), "Reconciling", "PodsRefused", "exceeded quota: small"),
        (deployment(2, **QUOTA), "Ready", "Available", "2 of 2"),
        (deployment(1, **LATE), "Stalled", "PodsStuck", "timed out"),
        (deployment(2, updatedReplicas=1, replicas=3, **LATE), "Stalled", "PodsStuck", "timed out"),
        (deployment(2, generation=2, **LATE), "Reconciling", "RollingOut", "0 of 2"),
    ],
)
def test_what_kubernetes_says_of_the_pods_is_told_and_a_rollout_is_not_over_before_its_end(
    child: dict[str, Any], condition: str, reason: str, says: str
) -> None:
    seen = look(made("Pool", "general", {"replicas": 2}), children=(child,), workers=8)
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, condition) == ("True", reason)
    assert says in message(plan)


@pytest.mark.parametrize(
    ("spec", "pods", "workers", "status", "reason", "going"),
    [
        ({}, 0, 0, "False", "PodsNotReady", "True"),
        ({}, 1, 3, "False", "WorkersNotRegistered", "True"),
        ({}, 1, 4, "True", "Available", "False"),
        ({"replicas": 2}, 1, 4, "False", "PodsNotReady", "True"),
        ({"replicas": 2, "workersPerReplica": 1}, 2, 2, "True", "Available", "False"),
        ({"replicas": 0}, 0, 0, "True", "ScaledToZero", "False"),
        ({"replicas": 3, "suspend": True}, 0, 0, "True", "Suspended", "False"),
    ],
)
def test_ready_when_the_pods_and_their_workers_are_there(
    spec: dict[str, Any], pods: int, workers: int, status: str, reason: str, going: str
) -> None:
    seen = look(made("Pool", "general", spec), children=(deployment(pods),), workers=workers)
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Ready") == (status, reason)
    assert verdict(plan, "Reconciling") == (going, reason)
    assert verdict(plan, "Stalled")[0] == "False"
    assert plan.status is not None
    assert plan.status["workers"] == workers
    assert plan.status["readyReplicas"] == pods
    assert plan.status["selector"] == "seedbed.dev/pool=general"
    assert plan.status["observedGeneration"] == 1


@pytest.mark.req("SNK-27")
def test_a_pool_without_settings_wants_four_workers_and_says_how_many_there_are() -> None:
    plan = reconcile(look(made("Pool", "general", {}), workers=3), NOW, DEFAULTS)
    container = plan.apply[0]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "SEEDBED_WORKERS", "value": "4"} in container["env"]
    some = look(made("Pool", "general", {}), children=(deployment(1),), workers=3)
    assert message(reconcile(some, NOW, DEFAULTS)) == "3 of 4 workers registered"


def test_workers_are_told_how_many_steps_they_execute_side_by_side() -> None:
    for spec, expected in (({}, "4"), ({"concurrency": 32}, "32")):
        plan = reconcile(look(made("Pool", "general", spec)), NOW, DEFAULTS)
        container = plan.apply[0]["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "SEEDBED_CONCURRENCY", "value": expected} in container["env"]


def test_the_pods_meet_the_restricted_standard() -> None:
    (child,) = reconcile(look(made("Pool", "general", {})), NOW, DEFAULTS).apply
    pod = child["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert container["volumeMounts"][0] == {"name": "tmp", "mountPath": "/tmp"}
    assert pod["volumes"][0] == {"name": "tmp", "emptyDir": {}}
    (token,) = pod["volumes"][1]["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "seedbed-gateway", "and no other is mounted"
    assert container["args"] == ["serve", "worker"]


def test_what_the_user_says_of_pods_is_passed_through() -> None:
    template = {
        "image": "example.org/mine:2",
        "imagePullPolicy": "Never",
        "serviceAccountName": "auditor",
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "env": [{"name": "TEAM", "value": "legal"}, {"name": "SEEDBED_POOL", "value": "other"}],
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}],
        "priorityClassName": "batch-low",
    }
    pool = made(
        "Pool",
        "general",
        {"template": template, "drain": "2m"},
        labels={"kueue.x-k8s.io/queue-name": "q"},
    )
    (child,) = reconcile(look(pool), NOW, DEFAULTS).apply
    pod = child["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for field in (
        "nodeSelector",
        "tolerations",
        "topologySpreadConstraints",
        "resourceClaims",
        "priorityClassName",
    ):
        assert pod[field] == template[field]
    assert pod["serviceAccountName"] == "auditor"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert container["image"] == "example.org/mine:2"
    assert container["imagePullPolicy"] == "Never"
    assert container["resources"] == template["resources"]
    assert {"name": "TEAM", "value": "legal"} in container["env"]
    assert [e["value"] for e in container["env"] if e["name"] == "SEEDBED_POOL"] == ["general"]
    assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"


def test_the_spec_is_published_once_and_withdrawn_with_the_pool() -> None:
    seen = look(made("Pool", "general", {"queueLimit": 5}))
    plan = reconcile(seen, NOW, DEFAULTS)
    (effect,) = plan.effects
    assert isinstance(effect, Publish)
    assert effect.key == "pools/team/general"
    assert json.loads(effect.value)["queueLimit"] == 5
    again = after(seen, plan)
    assert reconcile(again, LATER, DEFAULTS).effects == ()
    gone = Observed(seen.key, None, settings=again.settings)
    assert reconcile(gone, LATER, DEFAULTS).effects == (Withdraw("pools/team/general"),)
    assert reconcile(Observed(seen.key, None), LATER, DEFAULTS).effects == ()


def test_a_transition_time_moves_only_with_the_status() -> None:
    seen = look(made("Pool", "general", {"replicas": 2}))
    first = after(seen, reconcile(seen, NOW, DEFAULTS))
    plan = reconcile(after(first, reconcile(first, LATER, DEFAULTS)), LATER, DEFAULTS)
    assert plan.status is not None
    times = {c["type"]: c["lastTransitionTime"] for c in plan.status["conditions"]}
    assert set(times.values()) == {"2026-11-21T10:00:00Z"}
    zero = look({**first.object, "spec": {"replicas": 0}})  # type: ignore[dict-item]  # just made
    moved = reconcile(zero, LATER, DEFAULTS)
    assert moved.status is not None
    times = {c["type"]: c["lastTransitionTime"] for c in moved.status["conditions"]}
    assert times["Ready"] == "2026-11-21T10:05:00Z"
    assert times["Stalled"] == "2026-11-21T10:00:00Z"


def test_an_event_tells_of_each_change_once_and_of_nothing_at_the_start() -> None:
    seen = look(made("Pool", "general", {"replicas": 0}))
    plan = reconcile(seen, NOW, DEFAULTS)
    assert plan.events == ()
    there = after(seen, plan).object
    assert there is not None
    grown = look({**there, "spec": {"replicas": 1}})
    plan = reconcile(grown, NOW, DEFAULTS)
    assert [(event.type, event.reason) for event in plan.events] == [("Normal", "PodsNotReady")]
    assert reconcile(after(grown, plan), LATER, DEFAULTS).events == ()


def test_a_problem_is_told_at_once() -> None:
    plan = reconcile(look(made("Pool", "general", {"replicas": "many"})), NOW, DEFAULTS)
    assert [(event.type, event.reason) for event in plan.events] == [("Warning", "InvalidSpec")]


def test_a_spec_of_another_version_is_told_and_changes_nothing() -> None:
    plan = reconcile(look(made("Pool", "general", {"replicas": "many"})), NOW, DEFAULTS)
    assert verdict(plan, "Stalled") == ("True", "InvalidSpec")
    assert "spec.replicas" in message(plan)
    assert plan.apply == ()
    assert plan.effects == ()


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 1000),
        "workersPerReplica": st.integers(1, 256),
        "concurrency": st.integers(1, 256),
        "suspend": st.booleans(),
        "drain": st.sampled_from(["30s", "1m", "250ms"]),
        "template": st.fixed_dictionaries(
            {}, optional={"nodeSelector": st.dictionaries(st.text("ab"), st.text("xy"))}
        ),
    },
)


@given(spec=SPECS, pods=st.integers(0, 4), workers=st.integers(0, 9))
def test_a_second_pass_changes_nothing(spec: dict[str, Any], pods: int, workers: int) -> None:
    seen = look(made("Pool", "general", spec), children=(deployment(pods),), workers=workers)
    assert quiet(reconcile, after(seen, reconcile(seen, NOW, DEFAULTS)))


@given(path=st.lists(SPECS, max_size=4), last=SPECS)
def test_every_path_to_a_spec_ends_in_the_same_state(
    path: list[dict[str, Any]], last: dict[str, Any]
) -> None:
    def ends(specs: list[dict[str, Any]]) -> tuple[Any, ...]:
        seen = look(made("Pool", "general", specs[0]))
        for spec in specs:
            seen = look(
                {**(seen.object or {}), "spec": spec},
                children=seen.children,
                settings=seen.settings,
            )
            seen = after(seen, reconcile(seen, NOW, DEFAULTS))
        return seen.children, seen.settings, (seen.object or {}).get("status")

    assert ends([*path, last]) == ends([last])
