"""The models file and the request form say clearly what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.gateway import providers_of
from seedbed.runtime.llm.litellm_provider import LiteLLMModel
from seedbed.runtime.llm.local import LocalModel, model_file
from seedbed.runtime.llm.models import ModelEntry, load
from seedbed.runtime.llm.requests import ChatRequest, parse
from tests.conftest import run_async


def write(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_there_is_one_local_model() -> None:
    models = load(None)
    assert [(m.name, m.provider) for m in models.models] == [("smollm2", "local")]
    providers = providers_of(models)
    assert providers["default"] is providers["smollm2"]


def test_a_file_names_local_and_remote_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "k-1")
    models = load(
        write(
            tmp_path,
            "default: big\nmodels:\n- {name: small, threads: 2, contextLength: 2048}\n"
            "- {name: big, provider: litellm, model: openai/x, apiKeyEnv: THE_KEY}\n",
        )
    )
    providers = providers_of(models)
    assert isinstance(providers["small"], LocalModel)
    assert isinstance(providers["default"], LiteLLMModel)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("default: x\nmodels: [{name: a}]", "none of a"),
        ("default: a\nmodels: [{name: a}, {name: a}]", "each name may stand once"),
        ("default: a\nmodels: [{name: a, provider: cloud}]", "models.0.provider"),
        ("default: a\nmodels: [{name: a, apiKey: secret}]", "models.0.apiKey"),
        ("default: a\nmodels: []", "models"),
        ("default: [", "cannot be read as YAML"),
        ("default: a\nmodels: [{name: a}, {name: default}]", "has to be the default"),
    ],
)
def test_a_wrong_file_is_refused_with_its_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidError) as refused:
        load(write(tmp_path, text))
    assert told in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"gone\.yaml"):
        load(tmp_path / "gone.yaml")


def test_a_missing_key_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    entry = ModelEntry(name="big", provider="litellm", model="openai/x", api_key_env="NO_SUCH_KEY")
    with pytest.raises(InvalidError, match="NO_SUCH_KEY is not set"):
        LiteLLMModel(entry)


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"other\.gguf"):
        model_file(str(tmp_path / "other.gguf"))
    with pytest.raises(InvalidError, match=r"other\.gguf"):
        run_async(LocalModel(ModelEntry(name="a", model=str(tmp_path / "other.gguf"))).start())


def test_the_packaged_model_is_found() -> None:
    assert model_file("smollm2").stat().st_size > 50_000_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "a", "messages": []}', "messages"),
        (b'{"model": "a", "messages": [{"role": "judge", "content": "x"}]}', "messages.0.role"),
        (b'{"model": "a", "messages": [{"role": "user", "content": "x"}], "n": 0}', "n"),
        (b'{"model": "a", "messages": [{"role": "user", "content": "x"}], "tools": []}', "tools"),
        (b"no json", "body"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidError) as refused:
        parse(ChatRequest, body)
    assert refused.value.field == field


def test_only_what_was_asked_reaches_the_provider() -> None:
    request = parse(
        ChatRequest,
        b'{"model": "a", "messages": [{"role": "user", "content": "x"}], "stream": true,'
        b' "user": "me", "max_completion_tokens": 7, "temperature": 0}',
    )
    assert request.parameters() == {
        "messages": [{"role": "user", "content": "x"}],
        "temperature": 0.0,
        "max_tokens": 7,
    }
