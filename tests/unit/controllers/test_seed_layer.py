"""SeedLayer: its pods, its Service, and a status made of what the pods report."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.controllers.plan import Observed, Publish, Withdraw
from seedbed.controllers.seed_layer import reconcile
from seedbed.crds.seed_checks import check_seed_layer
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.crds.seed_messages import SeedCheckpointed, SeedDecision, SeedReport, in_one_line
from seedbed.crds.wire import decode, encode
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

SPEC: dict[str, Any] = {"model": {"entry": "team.models:encoder"}, "layers": ["encoder.*.mlp"]}
SHARED = {"checkpoint": {"url": "s3://team/seeds"}}


def layer(**spec: Any) -> dict[str, Any]:
    return made("SeedLayer", "encoder", {**SPEC, **spec})


def stateful_set(ready: int) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "encoder-seeds", "namespace": "team", "uid": "s"},
        "status": {"replicas": ready, "readyReplicas": ready},
    }


def report(pod: int = 0, **told: Any) -> SeedReport:
    basis = SeedReport(
        namespace="team",
        layer="encoder",
        uid="uid-of-encoder",
        pod=f"encoder-seeds-{pod}",
        at=NOW.timestamp() - 5,
        phase="Serving",
        trains=pod == 0,
        activity="Training" if pod == 0 else "Waiting",
        features=("extended_lifecycle", "chunked_architecture"),
        layers=2,
        stages={"dormant": 1021, "training": 3},
        epoch=12,
        step=480,
        accuracy=0.9121,
        base_accuracy=0.74021,
        new_parameters=0.0123,
        p50=0.00112,
        p95=0.0019,
        p99=0.00236,
        throughput=1234.5,
        memory_bytes=412 << 20,
        decision=SeedDecision(12, "germinate", "fc1", 17, "no progress for 5 epochs"),
        decisions=31,
        checkpoint=SeedCheckpointed(NOW.timestamp() - 60, 12, 120_000),
    )
    return replace(basis, **told)


@pytest.mark.parametrize(
    ("generation", "status", "reason"),
    [
        (2, {"observedGeneration": 1}, "RollingOut"),  # Kubernetes has not seen the change yet
        (2, {"updatedReplicas": 0}, "RollingOut"),
        (2, {"updatedReplicas": 1}, "RollingOut"),
        (2, {}, "RollingOut"),  # a count of zero is left out
        (2, {"updatedReplicas": 2}, "Serving"),
        (2, {"updatedReplicas": 2, "currentRevision": "b"}, "Serving"),
    ],
)
def test_an_upgrade_is_over_when_every_pod_is_of_the_new_version(
    generation: int, status: dict[str, Any], reason: str
) -> None:
    child = stateful_set(2)
    child["metadata"]["generation"] = generation
    child["status"] |= {
        "observedGeneration": generation, "currentRevision": "a", "updateRevision": "b",
    }  # fmt: skip
    child["status"] |= status
    reports = (report(), report(1))
    seen = look(layer(replicas=2, **SHARED), children=(child,), seeds=reports)
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Ready") == (str(reason == "Serving"), reason)


@pytest.mark.parametrize(
    ("spec", "pods", "reports", "status", "reason", "stalled"),
    [
        ({}, 0, (), "False", "PodsNotReady", "False"),
        ({}, 0, (report(phase="Loading", message="the model"),), "False", "PodsNotReady", "False"),
        ({}, 1, (), "False", "PodsSilent", "False"),
        ({}, 1, (report(),), "True", "Serving", "False"),
        ({}, 1, (report(at=NOW.timestamp() - 61),), "False", "PodsSilent", "False"),
        ({}, 1, (report(uid="another"),), "False", "PodsSilent", "False"),
        ({"replicas": 2, **SHARED}, 1, (report(),), "False", "PodsNotReady", "False"),
        ({"replicas": 2, **SHARED}, 2, (report(), report(1)), "True", "Serving", "False"),
        (
            {},
            0,
            (report(phase="Failed", reason="NotFound", message="no module"),),
            "False",
            "NotFound",
            "True",
        ),
        ({"replicas": 0}, 0, (), "True", "ScaledToZero", "False"),
        ({"suspend": True}, 0, (report(),), "True", "Suspended", "False"),
    ],
)
def test_ready_when_the_pods_are_there_and_report(
    spec: dict[str, Any],
    pods: int,
    reports: tuple[SeedReport, ...],
    status: str,
    reason: str,
    stalled: str,
) -> None:
    seen = look(layer(**spec), children=(stateful_set(pods),), seeds=reports)
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Ready") == (status, reason)
    assert verdict(plan, "Stalled") == (stalled, reason)
    assert plan.status is not None
    assert plan.status["readyReplicas"] == pods
    assert plan.status["observedGeneration"] == 1


def test_the_status_tells_what_the_pods_report() -> None:
    seen = look(layer(), children=(stateful_set(1),), seeds=(report(),))
    status = reconcile(seen, NOW, DEFAULTS).status
    assert status is not None
    assert {name: value for name, value in status.items() if name != "conditions"} == {
        "observedGeneration": 1,
        "replicas": 1,
        "readyReplicas": 1,
        "selector": "seedbed.dev/seed-layer=encoder",
        "address": "http://encoder-seeds.team.svc:8000",
        "stages": "3 training/1021 dormant",
        "seeds": {"dormant": 1021, "training": 3},
        "layers": 2,
        "active": ["chunked_architecture", "extended_lifecycle"],
        "epoch": 12,
        "step": 480,
        "accuracy": "0.9121",
        "baseAccuracy": "0.7402",
        "newParameters": "1.23%",
        "forward": {"p50": "1.1ms", "p95": "1.9ms", "p99": "2.4ms"},
        "throughput": "1200/s",
        "memory": "412Mi",
        "decisions": 31,
        "lastDecision": {
            "epoch": 12,
            "action": "germinate",
            "layer": "fc1",
            "seed": 17,
            "reason": "no progress for 5 epochs",
        },
        "lastCheckpoint": {
            "time": "2026-11-21T09:59:00Z",
            "epoch": 12,
            "sizeBytes": 120_000,
        },
    }


def test_utilisation_is_told_only_of_gpus() -> None:
    seeds = (report(gpu_utilisation=0.8), report(1, gpu_utilisation=0.9))
    seen = look(layer(replicas=2, **SHARED), children=(stateful_set(2),), seeds=seeds)
    status = reconcile(seen, NOW, DEFAULTS).status
    assert status is not None
    assert status["gpuUtilisation"] == "85%"


@pytest.mark.parametrize(
    ("reports", "pods", "status", "reason"),
    [
        ((report(),), 1, "False", "Healthy"),
        ((report(p99=0.2),), 1, "True", "Slow"),
        ((report(),), 2, "True", "PodsSilent"),
        ((report(),), 1, "True", "PodsMissing"),
    ],
)
def test_degraded_says_what_is_worse_than_it_should_be(
    reports: tuple[SeedReport, ...], pods: int, status: str, reason: str
) -> None:
    spec = {"replicas": 2, **SHARED} if reason.startswith("Pods") else {}
    seen = look(layer(**spec), children=(stateful_set(pods),), seeds=reports)
    assert verdict(reconcile(seen, NOW, DEFAULTS), "Degraded") == (status, reason)


@pytest.mark.parametrize(
    ("activity", "status"),
    [("Training", "True"), ("Resting", "True"), ("Ended", "False"), ("Waiting", "False")],
)
def test_progressing_says_whether_seeds_are_trained(activity: Any, status: str) -> None:
    seen = look(layer(), children=(stateful_set(1),), seeds=(report(activity=activity),))
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Progressing") == (status, activity)
    assert "3 seeds are on their way" in message(plan, "Progressing")


def test_what_the_seeds_were_stays_while_the_pods_are_away() -> None:
    seen = look(layer(), children=(stateful_set(1),), seeds=(report(),))
    first = after(seen, reconcile(seen, NOW, DEFAULTS))
    silent = reconcile(first, LATER, DEFAULTS).status
    assert silent is not None
    assert silent["stages"] == "3 training/1021 dormant"
    assert silent["lastCheckpoint"]["epoch"] == 12
    assert "forward" not in silent
    assert "throughput" not in silent
    loading = replace(report(), phase="Loading", stages={}, p99=None, at=LATER.timestamp())
    again = reconcile(replace(first, seeds=(loading,)), LATER, DEFAULTS).status
    assert again is not None
    assert again["accuracy"] == "0.9121"


def test_it_looks_again_when_a_pod_may_have_fallen_silent() -> None:
    seen = look(layer(), children=(stateful_set(1),), seeds=(report(),))
    plan = reconcile(seen, NOW, DEFAULTS)
    assert plan.requeue_after is not None
    later = NOW + timedelta(seconds=plan.requeue_after)
    assert verdict(reconcile(seen, later, DEFAULTS), "Ready") == ("False", "PodsSilent")
    assert reconcile(look(layer()), NOW, DEFAULTS).requeue_after is None


def test_the_pods_meet_the_restricted_standard() -> None:
    pods = reconcile(look(layer()), NOW, DEFAULTS).apply[1]
    pod = pods["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert container["args"] == ["serve", "seeds"]
    assert container["image"] == "seedbed-kernels"
    assert {"name": "tmp", "emptyDir": {}} in pod["volumes"]


def test_a_service_stands_before_the_pods() -> None:
    before, pods = reconcile(look(layer()), NOW, DEFAULTS).apply
    assert before["kind"] == "Service"
    assert before["metadata"]["name"] == pods["spec"]["serviceName"] == "encoder-seeds"
    assert before["spec"]["selector"] == pods["spec"]["selector"]["matchLabels"]
    assert (
        before["spec"]["selector"].items() <= pods["spec"]["template"]["metadata"]["labels"].items()
    )
    for child in (before, pods):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("SeedLayer", "uid-of-encoder")


def pods_of(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = reconcile(look(layer(**spec)), NOW, DEFAULTS).apply[1]["spec"]
    return found


def container_of(**spec: Any) -> dict[str, Any]:
    (found,) = pods_of(**spec)["template"]["spec"]["containers"]
    return dict(found)


def test_devices_come_as_gpus_or_claims_and_without_them_it_is_the_cpu() -> None:
    said = {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi"}}
    assert "resources" not in container_of()
    assert container_of(gpus=2, template={"resources": said})["resources"] == {
        "requests": {"cpu": "2"},
        "limits": {"memory": "4Gi", "nvidia.com/gpu": "2"},
    }
    claims = [{"name": "gpu", "resourceClaimTemplateName": "one"}]
    template = pods_of(template={"resourceClaims": claims})["template"]["spec"]
    assert template["resourceClaims"] == claims
    assert template["containers"][0]["resources"] == {"claims": [{"name": "gpu"}]}


@pytest.mark.parametrize(
    ("checkpoint", "place", "volume"),
    [
        ({}, "/var/lib/seedbed/seeds", {"emptyDir": {}}),
        ({"volume": {"size": "10Gi"}}, "/var/lib/seedbed/seeds", None),
        (
            {"claim": "mine"},
            "/var/lib/seedbed/seeds",
            {"persistentVolumeClaim": {"claimName": "mine"}},
        ),
        ({"url": "s3://team/seeds"}, "s3://team/seeds", None),
    ],
)
def test_checkpoints_stand_where_the_user_wants_them(
    checkpoint: dict[str, Any], place: str, volume: dict[str, Any] | None
) -> None:
    pods = pods_of(checkpoint=checkpoint)
    pod = pods["template"]["spec"]
    env = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert env["SEEDBED_SEED_CHECKPOINTS"] == place
    volumes = {
        one["name"]: {key: value for key, value in one.items() if key != "name"}
        for one in pod["volumes"]
    }
    assert volumes.get("checkpoints") == volume
    claims = pods.get("volumeClaimTemplates", [])
    assert len(claims) == (1 if "volume" in checkpoint else 0)
    if claims:
        assert claims[0]["spec"]["resources"] == {"requests": {"storage": "10Gi"}}


def test_a_pod_that_a_spot_node_gives_up_has_two_minutes_and_no_more() -> None:
    pod = pods_of()["template"]["spec"]
    assert 60 <= pod["terminationGracePeriodSeconds"] <= 120
    assert {"name": "SEEDBED_DRAIN", "value": "110s"} in pod["containers"][0]["env"]


def test_only_what_a_pod_reads_at_its_start_rolls_out_a_new_one() -> None:
    def template(**spec: Any) -> Any:
        return pods_of(**spec)["template"]

    same = template()
    assert (
        template(lifecycle={"patience": 9}, training={"epochs": 7}, grafting={"steps": 3}) == same
    )
    assert template(features={"messageBus": "other"}) == same
    assert template(data={"entry": "team.data:load"}) != same
    assert template(checkpoint={"url": "s3://a/b"}) != template(checkpoint={"url": "s3://a/c"})


def test_volumes_are_mounted_for_reading_and_the_token_comes_from_a_secret() -> None:
    spec = {
        "volumes": [{"name": "models", "claim": "claim-of-models"}],
        "tokenSecret": {"name": "encoder-token"},
    }
    (claim,) = [
        one
        for one in pods_of(**spec)["template"]["spec"]["volumes"]
        if one["name"] == "user-models"
    ]
    assert claim["persistentVolumeClaim"] == {"claimName": "claim-of-models", "readOnly": True}
    container = container_of(**spec)
    mount = {"name": "user-models", "mountPath": "/volumes/models", "readOnly": True}
    assert mount in container["volumeMounts"]
    (token,) = [one for one in container["env"] if one["name"] == "SEEDBED_SEED_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "encoder-token", "key": "token"}


def test_the_spec_is_published_and_withdrawn_with_the_object() -> None:
    seen = look(layer(seedsPerLayer=7))
    plan = reconcile(seen, NOW, DEFAULTS)
    (effect,) = plan.effects
    assert isinstance(effect, Publish)
    assert effect.key == "seedlayers/team/encoder"
    assert json.loads(effect.value)["seedsPerLayer"] == 7
    again = after(seen, plan)
    assert reconcile(again, LATER, DEFAULTS).effects == ()
    gone = Observed(seen.key, None, settings=again.settings)
    assert reconcile(gone, LATER, DEFAULTS).effects == (Withdraw("seedlayers/team/encoder"),)


def test_a_spec_of_another_version_is_told_and_changes_nothing() -> None:
    plan = reconcile(look(layer(seedsPerLayer="many")), NOW, DEFAULTS)
    assert verdict(plan, "Stalled") == ("True", "InvalidSpec")
    assert "spec.seedsPerLayer" in message(plan)
    assert plan.apply == ()


GROUP: dict[str, Any] = {
    **SHARED,
    "data": {"entry": "team.data:load"},
    "replicas": 3,
    "distribution": {"seeds": "sharded", "processesPerPod": 2, "leastPods": 2},
}


def test_pods_that_train_together_find_each_other() -> None:
    plan = reconcile(look(layer(**GROUP)), NOW, DEFAULTS)
    peers, front, pods = plan.apply
    assert peers["metadata"]["name"] == "encoder-seed-peers" == pods["spec"]["serviceName"]
    assert peers["spec"]["clusterIP"] == "None"
    assert peers["spec"]["publishNotReadyAddresses"] is True
    assert (
        peers["spec"]["selector"].items() <= pods["spec"]["template"]["metadata"]["labels"].items()
    )
    container = pods["spec"]["template"]["spec"]["containers"][0]
    told = {one["name"]: one.get("value") for one in container["env"]}
    domain = "encoder-seed-peers.team.svc"
    assert told["SEEDBED_SEED_GROUP"] == "sharded"
    assert told["SEEDBED_SEED_PROCESSES"] == "2"
    assert told["SEEDBED_SEED_LEAST_PODS"] == "2"
    assert told["SEEDBED_SEED_RENDEZVOUS"] == f"encoder-seeds-0.{domain}:29400"
    assert told["SEEDBED_SEED_ADDRESS"] == f"$(POD_NAME).{domain}"
    named = [one["name"] for one in container["env"]]
    assert named.index("POD_NAME") < named.index("SEEDBED_SEED_ADDRESS"), "it is made of the former"
    assert "livenessProbe" not in container
    assert "readinessProbe" in container
    only = {"statefulset.kubernetes.io/pod-name": "encoder-seeds-0"}
    assert only.items() <= front["spec"]["selector"].items(), "only the first can answer"
    each = {**GROUP, "distribution": {}}
    _, front, _ = reconcile(look(layer(**each)), NOW, DEFAULTS).apply
    assert not only.items() & front["spec"]["selector"].items()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": None}, "spec.distribution"),
        ({"gpus": 1}, "spec.distribution.processesPerPod"),
        ({"replicas": 1}, "spec.distribution.leastPods"),
        ({"blueprints": [{"type": "norm", "entry": "a.b:c"}]}, "spec.blueprints[0].entry"),
        ({"blueprints": [{"type": "custom"}]}, "spec.blueprints[0].entry"),
        ({"blueprints": [{"type": "mlp", "arguments": {"x": 1}}]}, "spec.blueprints[0].arguments"),
        (
            {
                "blueprints": [
                    {"type": "custom", "entry": "a.b:c", "arguments": {"x": number}}
                    for number in (1, 2)
                ]
            },
            "spec.blueprints[1]",
        ),
    ],
)
def test_what_does_not_go_together_is_one_error(change: dict[str, Any], field: str) -> None:
    spec = SeedLayerSpec.model_validate({**SPEC, **GROUP, **change})
    assert [error.field for error in check_seed_layer(spec)] == [field]


def test_a_spec_that_the_pods_refuse_is_told_while_they_serve() -> None:
    told = report(reason="UnfitCheckpoint", message="checkpoint: 1 fossils would be lost")
    seen = look(layer(), children=(stateful_set(1),), seeds=(told,))
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Ready") == ("False", "UnfitCheckpoint")
    assert verdict(plan, "Stalled") == ("True", "UnfitCheckpoint")
    assert plan.status is not None
    assert plan.status["epoch"] == 12


def test_a_report_travels_as_it_is() -> None:
    told = report()
    assert decode(SeedReport, encode(told)) == told


def test_stages_in_one_line_leave_out_what_is_empty() -> None:
    assert in_one_line({"dormant": 5, "fineTuning": 1, "training": 0}) == "1 fineTuning/5 dormant"
    assert in_one_line({}) == ""


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 1),
        "suspend": st.booleans(),
        "gpus": st.integers(0, 8),
        "lifecycle": st.fixed_dictionaries({}, optional={"patience": st.integers(1, 9)}),
        "checkpoint": st.sampled_from(
            [{}, {"volume": {}}, {"claim": "c"}, {"url": "s3://team/x"}, {"interval": "5s"}]
        ),
        "data": st.just({"entry": "team.data:load"}),
        "template": st.fixed_dictionaries(
            {}, optional={"nodeSelector": st.dictionaries(st.text("ab"), st.text("xy"))}
        ),
    },
)
REPORTS = st.lists(
    st.builds(
        report,
        phase=st.sampled_from(["Loading", "Serving", "Failed"]),
        stages=st.dictionaries(st.sampled_from(["dormant", "grafting"]), st.integers(0, 9)),
        p99=st.none() | st.floats(0, 2),
        at=st.sampled_from([NOW.timestamp(), LATER.timestamp()]),
    ),
    max_size=1,
).map(tuple)


@given(spec=SPECS, pods=st.integers(0, 2), seeds=REPORTS)
def test_a_second_pass_changes_nothing(
    spec: dict[str, Any], pods: int, seeds: tuple[SeedReport, ...]
) -> None:
    seen = look(layer(**spec), children=(stateful_set(pods),), seeds=seeds)
    assert quiet(reconcile, after(seen, reconcile(seen, NOW, DEFAULTS)), NOW)


@given(path=st.lists(SPECS, max_size=4), last=SPECS)
def test_every_path_to_a_spec_ends_in_the_same_state(
    path: list[dict[str, Any]], last: dict[str, Any]
) -> None:
    def ends(specs: list[dict[str, Any]]) -> tuple[Any, ...]:
        seen = look(layer(**specs[0]))
        for spec in specs:
            assert seen.object is not None
            obj = {**seen.object, "spec": {**SPEC, **spec}}
            seen = replace(seen, object=obj)
            seen = after(seen, reconcile(seen, NOW, DEFAULTS))
        assert seen.object is not None
        said = {n: v for n, v in seen.object["status"].items() if n != "fencingToken"}
        return (*seen.children, said, seen.settings)

    assert ends([*path, last]) == ends([last])
