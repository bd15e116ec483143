"""The pages that list things: commands, routes, conditions, documents. They list what there is, all of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

from seedbed.cli import serve
from seedbed.cli.main import app
from seedbed.crds.failure import class_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
API = (
    *("ofrep", "runs", "record_of_runs", "planning", "streams", "inbox", "checkpoints", "plans"),
    *("goals", "costs", "cache", "batches", "dead_letters", "services"),
)
# Whose conditions and reasons users see.
REASONS = (
    *(f"controllers/{name}.py" for name in ("agent", "pool", "workflow", "feature_flag", "budget")),
    *(f"controllers/{name}.py" for name in ("seed_layer", "template", "steps_source", "reading")),
    "operator/executor.py",
    *(f"runtime/workflow/{name}.py" for name in ("ending", "summary", "world")),
    "runtime/workflow/checkpoint/origin.py",
    "runtime/seeds/trainer.py",
)
# Capital words in these files that are no reason: kinds, states of units and pods, words of Kubernetes.
NO_REASON = {
    *("Agent", "Pool", "Workflow", "ConfigMap", "Deployment", "StatefulSet", "Event", "Warning"),
    *("True", "False", "Unknown", "Normal", "Loading", "Wait"),
    "ShedLow",  # a queue's policy
    *("ReplicaFailure", "Progressing", "ProgressDeadlineExceeded"),  # what a Deployment says
}


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from commands(each, (*path, name))
    else:
        yield " ".join(path), command


def test_the_page_of_the_command_lists_every_command() -> None:
    named = set(re.findall(r"`seedbed ([a-z][a-z -]+)`", (REFERENCE / "command.md").read_text()))
    roles = {f"serve {name}" for name, _ in commands(typer.main.get_command(serve.app))}
    assert {name for name, _ in commands()} - {"serve"} | roles == named


@pytest.mark.parametrize("document", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_options_that_documents_name_exist(document: Path) -> None:
    known = dict(commands())
    for line in re.findall(r"(?:^|[`$] ?|kubectl )seedbed ([a-z][^`\n#|]*)", document.read_text()):
        words = line.split()
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in known), None)
        if name is None:
            continue
        options = {
            word for each in known[name].params for word in (*each.opts, *each.secondary_opts)
        }
        given = {
            word.strip("[]().,;").split("=")[0] for word in words if word.startswith(("-", "[-"))
        }
        assert given <= options, line


def pages_of_the_api() -> Iterator[Any]:
    for name in API:
        module = import_module(f"seedbed.runtime.api.{name}")
        for pages in vars(module).values():
            own = inspect.isclass(pages) and pages.__module__ == module.__name__
            if own and hasattr(pages, "routes"):
                # Routes name methods only: nothing of what the pages are given is looked at.
                yield pages.__new__(pages)


def routes() -> set[str]:
    found = {"GET /healthz", "GET /openapi.json"}
    for pages in pages_of_the_api():
        found |= {f"{one.method} {one.path}" for one in pages.routes()}
    return found


def test_the_page_of_the_api_lists_every_route() -> None:
    text = (REFERENCE / "http-api.md").read_text()
    table = text.partition("## The API")[2].partition("## The model service")[0]
    assert set(re.findall(r"^\| `([A-Z]+ [^`]+)` \|", table, re.MULTILINE)) == routes()


@pytest.mark.parametrize(
    ("heading", "sources"),
    [
        ("The model service", ["llm/service.py", "llm/batch/offline/pages.py"]),
        ("Pods of SeedLayers", ["seeds/pages.py"]),
    ],
)
def test_the_page_lists_the_routes_of_the_other_services(heading: str, sources: list[str]) -> None:
    text = (REFERENCE / "http-api.md").read_text()
    section = text.partition(f"## {heading}")[2].partition("\n## ")[0]
    code = "".join((ROOT / "runtime" / source).read_text() for source in sources)
    made = {
        f"{method.upper()} {path.replace(':.+', '')}"
        for method, path in re.findall(r"web\.(get|post|delete)\(\"(/[^\"]+)\"", code)
        if path.startswith(("/v1/", "/api/"))
    }
    assert set(re.findall(r"`([A-Z]+ /[^`]+)`", section)) == made


def test_every_module_of_the_api_with_routes_is_known_here() -> None:
    with_routes = {
        path.stem
        for path in (ROOT / "runtime" / "api").glob("*.py")
        if "def routes(self)" in path.read_text()
    }
    assert with_routes - {"app"} == set(API)


def test_the_page_of_conditions_explains_every_reason() -> None:
    page = (REFERENCE / "conditions.md").read_text()
    explained = set(re.findall(r"`([A-Z][A-Za-z]+)`", page))
    for file in REASONS:
        told = set(re.findall(r"\"((?:[A-Z][a-z]+)+)\"", (ROOT / file).read_text()))
        assert told - NO_REASON <= explained, file


def test_the_page_of_conditions_puts_codes_into_their_class() -> None:
    page = (REFERENCE / "conditions.md").read_text().partition("## Codes of failed steps")[2]
    rows = re.findall(r"^\| `(\w+_error)` \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for error_class, told in rows:
        for code in re.findall(r"`([a-z_]+)`", told):
            assert class_of(code) == error_class, code


def test_codes_that_pages_explain_are_codes_of_errors() -> None:
    sources = [*(ROOT / "runtime").rglob("*.py"), *(ROOT / "crds").rglob("*.py")]
    sources.append(ROOT / "controllers" / "container_step.py")
    known = {code for file in sources for code in re.findall(r"\"([a-z_]+)\"", file.read_text())}
    models = (DOCS / "runbooks" / "models-do-not-answer.md").read_text()
    steps = (REFERENCE / "conditions.md").read_text().partition("## Codes of failed steps")[2]
    rows = re.findall(r"^\| (`.+?`) \|", models, re.MULTILINE) + steps.splitlines()
    told = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    assert told <= known


def test_the_page_of_limits_has_the_constants_of_the_code() -> None:
    units = {"KiB": 1024, "MiB": 1024**2}
    page = (REFERENCE / "limits.md").read_text()
    rows = re.findall(r"^\| .+ \| ([\d,]+) ?(\w*) \| `([\w.]+):(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) == page.count("\n| ") - 1
    for number, unit, module, name in rows:
        told = int(number.replace(",", "")) * units.get(unit, 1)
        assert told == getattr(import_module(f"seedbed.{module}"), name), name


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    named = set(re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", index.read_text()))
    reached = {(DOCS / target).resolve() for target in named}
    adr = DOCS / "adr"
    in_adr = re.findall(r"\]\(([\w-]+\.md)\)", (adr / "README.md").read_text())
    reached |= {(adr / target).resolve() for target in in_adr}
    assert {path.resolve() for path in DOCS.rglob("*.md")} - {index} <= reached
    assert "docs/README.md" in (ROOT / "README.md").read_text()


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_links_lead_to_a_heading(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([\w./-]*)#([\w-]+)\)", document.read_text()):
        file = (document.parent / target) if target else document
        assert anchor in anchors(file), f"{target}#{anchor}"
