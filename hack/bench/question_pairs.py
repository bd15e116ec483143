"""Labelled real question pairs, where they are, and their embeddings, kept in the user's cache folder."""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seedbed.runtime.llm.cache.embedder import MODEL, Embedded, MiniLm

NAME = "question_pairs.jsonl.gz"
SEEN = 70
"""Per cent of the pairs that are fitted on and make up the shadow traffic; the others are judged."""
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class QuestionPair:
    """Two questions and whether people found them to ask the same."""

    a: str
    b: str
    duplicate: bool

    @property
    def share(self) -> int:
        """The pair's place by hash, from 0 to 99."""
        return int(hashlib.sha256(f"{self.a}\n{self.b}".encode()).hexdigest()[:8], 16) % 100


def question_pairs(folder: Path) -> list[QuestionPair]:
    """All pairs, none where the file is not there."""
    path = folder / NAME
    if not path.is_file():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [QuestionPair(row["a"], row["b"], bool(row["duplicate"])) for row in rows]


class Embeddings:
    """Embedded texts, on disk."""

    def __init__(self, texts: Sequence[str], folder: Path) -> None:
        self._places = {text: place for place, text in enumerate(texts)}
        self._starts = np.load(folder / "starts.npy")
        self._tokens = np.load(folder / "tokens.npy")
        self.vectors: NDArray[np.float32] = np.load(folder / "vectors.npy")
        self._states = np.load(folder / "states.npy", mmap_mode="r")

    def of(self, text: str) -> Embedded:
        """One of the texts."""
        place = self._places[text]
        part = slice(self._starts[place], self._starts[place + 1])
        return Embedded(text, self.vectors[place], self._tokens[part], self._states[part])

    def vector(self, text: str) -> NDArray[np.float32]:
        """Only its vector."""
        vector: NDArray[np.float32] = self.vectors[self._places[text]]
        return vector


def embeddings(texts: Iterable[str], processes: int) -> Embeddings:
    """All texts embedded; the second time they are read from the user's cache folder."""
    wanted = sorted(set(texts))
    name = hashlib.sha256("\n".join([MODEL, *wanted]).encode()).hexdigest()[:16]
    folder = cache_folder() / f"embeddings-{name}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _embed(wanted, folder, processes)
        (folder / "done").touch()
    return Embeddings(wanted, folder)


def cache_folder() -> Path:
    """Where what is computed once is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "seedbed" / "bench"


def _embed(texts: Sequence[str], folder: Path, processes: int) -> None:
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    chunks = [by_length[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]
    found: list[Embedded | None] = [None] * len(texts)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        done = pool.map(_embed_some, [[texts[place] for place in chunk] for chunk in chunks])
        for chunk, some in zip(chunks, done, strict=True):
            for place, packed in zip(chunk, some, strict=True):
                found[place] = Embedded.unpacked(texts[place], packed)
    whole = [each for each in found if each is not None]
    np.save(folder / "starts.npy", np.cumsum([0, *(len(each.tokens) for each in whole)]))
    np.save(folder / "tokens.npy", np.concatenate([each.tokens for each in whole]))
    np.save(folder / "vectors.npy", np.stack([each.vector for each in whole]))
    np.save(folder / "states.npy", np.concatenate([each.states for each in whole]))


_model: list[MiniLm] = []


def _embed_some(texts: list[str]) -> list[bytes]:
    if not _model:
        _model.append(MiniLm())
    return [each.packed() for each in _model[0].embed(texts)]
