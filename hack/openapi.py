"""Writes the OpenAPI documents of the API and of the model service, as the services themselves show them.

python -m hack.openapi            # writes docs/reference/openapi/*.json
python -m hack.openapi --check    # fails where a file differs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seedbed.runtime.api.app import Pages
from seedbed.runtime.api.app import create_app as api
from seedbed.runtime.api.batches import BatchPages
from seedbed.runtime.api.cache import CachePages
from seedbed.runtime.api.checkpoints import CheckpointPages
from seedbed.runtime.api.costs import CostPages
from seedbed.runtime.api.flags import LiveFlags
from seedbed.runtime.api.goals import GoalPages
from seedbed.runtime.api.inbox import InboxPages
from seedbed.runtime.api.plans import PlanPages
from seedbed.runtime.llm.batch.offline.pages import OfflinePages
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import anybody
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.resilience.targets import Clock
from seedbed.runtime.llm.service import create_app as models
from seedbed.runtime.openapi import DOCUMENT
from seedbed.runtime.workflow.step_items import StepItems

PLACE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "openapi"

_NOTHING: Any = None
_ANY: Any = object()
"""In place of what pages are given: routes are told without any of it."""


def documents() -> Iterator[tuple[str, str]]:
    """Name and text of each."""
    pages: list[Pages] = [
        *(PlanPages(_NOTHING), CheckpointPages(_NOTHING, _NOTHING, _NOTHING), GoalPages(_NOTHING)),
        *(CostPages(_NOTHING, _NOTHING), CachePages(_NOTHING, _NOTHING), BatchPages(_NOTHING)),
        InboxPages(_NOTHING, _NOTHING),
    ]
    of_api = api(
        store=_NOTHING,
        history=_NOTHING,
        coordinator=_NOTHING,
        access=_NOTHING,
        flags=LiveFlags(),
        live=_NOTHING,
        items=StepItems(_NOTHING, None),
        events=_ANY,
        more=pages,
    )
    entry = ModelEntry(name="m", provider="openai", api_base="http://127.0.0.1:9/v1")
    gateway = Gateway(Models(models=(entry,), default="m"), clock=Clock(lambda: 0.0))
    offline = OfflinePages(_NOTHING, _NOTHING, anybody, _NOTHING).routes()
    of_models = models(gateway, routes=offline, metrics=False)
    for name, app in (("api", of_api), ("models", of_models)):
        yield f"{name}.json", json.dumps(app[DOCUMENT](), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check, differs = parser.parse_args().check, False
    for name, text in documents():
        path = PLACE / name
        if check and (not path.exists() or path.read_text() != text):
            sys.stderr.write(f"{path} is not as the code says: run python -m hack.openapi\n")
            differs = True
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
