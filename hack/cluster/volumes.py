"""Volumes on the node's disk: one folder and one PersistentVolume for each claim.

`python -m hack.cluster.volumes URL CA CERT KEY NODE FOLDER` serves the storage class `standard`
until it is ended. It looks at all claims once a second, which is enough for one node, and what
it decides is a pure function of what it sees.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster.api import Api, ApiError
from hack.cluster.certificates import Pair
from hack.cluster.manifests import PROVISIONER, STORAGE_CLASS
from hack.cluster.progress import say

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
INTERVAL = 1.0
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done: volumes to make, and names of volumes to remove with their content."""

    create: Sequence[dict[str, Any]]
    remove: Sequence[str]


def decide(
    claims: Sequence[dict[str, Any]], volumes: Sequence[dict[str, Any]], node: str, folder: Path
) -> Work:
    """A volume for every waiting claim that has none; the end of every volume that was released."""
    names = {volume["metadata"]["name"] for volume in volumes}
    create = [
        volume
        for claim in claims
        if claim["spec"].get("storageClassName") == STORAGE_CLASS
        and claim.get("status", {}).get("phase") == "Pending"
        and not claim["spec"].get("volumeName")
        and (volume := volume_for(claim, node, folder))["metadata"]["name"] not in names
    ]
    remove = [
        volume["metadata"]["name"]
        for volume in volumes
        if volume["metadata"].get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER
        and volume.get("status", {}).get("phase") in {"Released", "Failed"}
    ]
    return Work(create, remove)


def volume_for(claim: dict[str, Any], node: str, folder: Path) -> dict[str, Any]:
    """The volume that only this claim can bind; as a `local` volume it gets the pod's group."""
    metadata = claim["metadata"]
    name = f"pvc-{metadata['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "local": {"path": str(folder / name)},
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": "kubernetes.io/hostname",
                                    "operator": "In",
                                    "values": [node],
                                }
                            ]
                        }
                    ]
                }
            },
        },
    }


def serve_once(api: Api, node: str, folder: Path) -> None:
    """Look, decide and do."""
    work = decide(
        api.request("GET", CLAIMS)["items"], api.request("GET", VOLUMES)["items"], node, folder
    )
    for volume in work.create:
        place = Path(volume["spec"]["local"]["path"])
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o777)
        api.request("POST", VOLUMES, volume)
        say(f"made {place.name}")
    for name in work.remove:
        shutil.rmtree(folder / name, ignore_errors=True)
        api.request("DELETE", f"{VOLUMES}/{name}")
        say(f"removed {name}")


def main(arguments: Sequence[str]) -> None:
    """Serve until ended; what the API server refuses is tried again."""
    url, ca, cert, key, node, folder = arguments
    api = Api(url, Path(ca), Pair(Path(cert), Path(key)))
    while True:
        try:
            serve_once(api, node, Path(folder))
        except ApiError as error:
            say(str(error))
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main(sys.argv[1:])
