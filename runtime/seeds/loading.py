"""Loads the frozen model of a SeedLayer: an entry point with weights or without, or a folder.

Weights come from safetensors only: no pickle is ever read. What is wrong with a source is one error that
names the field of the spec.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seedbed.crds.errors import InvalidError, TerminalError, UnavailableError
from seedbed.crds.seed_layer import ModelSource
from seedbed.runtime.seeds.fetching import local_copy, read_tensors, told


class PackageMissingError(TerminalError):
    """The image lacks a package that the spec asks for.

    Attributes:
        package: its name.
    """

    code = "package_missing"

    def __init__(self, package: str, purpose: str) -> None:
        super().__init__(f"the package {package} is not installed, and {purpose} needs it")
        self.package = package


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(source: ModelSource, device: torch.device) -> nn.Module:
    """The model on its device, ready to be asked.

    Raises:
        InvalidError: naming the field of `spec.model` that is wrong.
        PackageMissingError: a folder, and an image without transformers.
        UnavailableError: the weights do not come, or the device has no memory for the model.
    """
    try:
        return _loaded(source).to(device).eval()
    except torch.OutOfMemoryError as error:
        raise UnavailableError("spec.model: the device has no memory for the model") from error


def _loaded(source: ModelSource) -> nn.Module:
    if source.folder is not None:
        return _from_folder(source.folder)
    assert source.entry is not None, "admission asks for exactly one source"
    module = called(source.entry, source.arguments, "spec.model.entry")
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise InvalidError("spec.model.entry", f"gave a {kind}, expected a torch module")
    if source.weights is not None:
        _load_weights(module, source.weights)
    return module


def called(entry: str, arguments: Mapping[str, Any], field: str) -> Any:
    """What an entry point gives.

    Raises:
        InvalidError: it cannot be found, or it failed.
    """
    function = found(entry, field)
    try:
        return function(**arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # The user's own code: whatever it raises is the user's to mend, and no defect of ours.
        raise InvalidError(
            field, f"{entry} failed with {type(error).__name__}: {told(error)}"
        ) from error


def found(entry: str, field: str) -> Callable[..., Any]:
    """The function of an entry point.

    Raises:
        InvalidError: it cannot be found, or is none.
    """
    module, _, name = entry.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InvalidError(field, f"{module} cannot be imported: {error}") from error
    except AttributeError as error:
        raise InvalidError(field, f"{module} has no {name}") from error
    except Exception as error:
        # As above: importing runs the user's code.
        raise InvalidError(
            field, f"{module} failed with {type(error).__name__}: {told(error)}"
        ) from error
    if not callable(function):
        raise InvalidError(field, f"{entry} is no function")
    return function  # type: ignore[no-any-return]  # callable, which is all that is asked of it


def _load_weights(module: nn.Module, url: str) -> None:
    field = "spec.model.weights"
    with local_copy(url, field) as path:
        tensors = read_tensors(path, field, url)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InvalidError(field, f"does not fit the model: {told(error)}") from error


def _from_folder(folder: str) -> nn.Module:
    field = "spec.model.folder"
    if not (Path(folder) / "config.json").is_file():
        raise InvalidError(field, f"there is no config.json in {folder}")
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise PackageMissingError("transformers", "spec.model.folder") from error
    try:
        loaded = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Of another package, for files of the user: what it raises for wrong ones has no root of its own.
        what = f"expected a model of Hugging Face with safetensors files in {folder}"
        raise InvalidError(field, f"{what}: {type(error).__name__}: {told(error)}") from error
    module: nn.Module = loaded
    return module
