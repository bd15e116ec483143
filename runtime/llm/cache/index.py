"""The nearest vectors: exact up to 10,000 of them, an HNSW graph above. Cosine, by unit vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""384 numbers of unit length."""

EXACT_UP_TO = 10_000
"""Vectors up to which all are compared: about a millisecond, and nothing is missed."""
DIMENSIONS = 384
_FIRST = 64
_LINKS = 16
_EXPANSION_ADD = 32
_EXPANSION_SEARCH = 64


class Index:
    """Vectors by key."""

    def __init__(self, dimensions: int = DIMENSIONS, exact_up_to: int = EXACT_UP_TO) -> None:
        """Empty."""
        self._dimensions = dimensions
        self._exact_up_to = exact_up_to
        self._rows: NDArray[np.float32] = np.zeros((_FIRST, dimensions), dtype=np.float32)
        self._keys: list[int] = []
        self._places: dict[int, int] = {}
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self._keys) if self._graph is None else len(self._graph)

    def __contains__(self, key: int) -> bool:
        return key in self._places if self._graph is None else key in self._graph

    def add(self, key: int, vector: Vector) -> None:
        """Add a vector, in place of an earlier one under the same key."""
        if key in self:
            self.remove(key)
        if self._graph is None and len(self._keys) >= self._exact_up_to:
            self._grow_graph()
        if self._graph is not None:
            self._graph.add(key, vector)
            return
        place = len(self._keys)
        if place == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[place] = vector
        self._keys.append(key)
        self._places[key] = place

    def add_many(
        self, keys: NDArray[np.uint64], vectors: NDArray[np.float32], threads: int
    ) -> None:
        """Add many new vectors at once, as when a store is read."""
        if self._graph is None and len(self) + len(keys) > self._exact_up_to:
            self._grow_graph()
        if self._graph is not None:
            self._graph.add(keys, vectors, threads=threads)
            return
        for key, vector in zip(keys, vectors, strict=True):
            self.add(int(key), vector)

    def write(self, path: Path) -> None:
        """Write a graph to a file."""
        self._graph.save(str(path))

    def read(self, path: Path) -> None:
        """Take the graph that a file holds in place of what is here."""
        self._grow_graph()
        self._graph.load(str(path))

    def remove(self, key: int) -> None:
        """Remove a vector; nothing happens where there is none."""
        if key not in self:
            return
        if self._graph is not None:
            self._graph.remove(key)
            return
        place, last = self._places.pop(key), self._keys.pop()
        if last != key:
            self._rows[place] = self._rows[len(self._keys)]
            self._keys[place] = last
            self._places[last] = place

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Keys and cosines of the nearest ones, the nearest first."""
        if not len(self):
            return []
        if self._graph is not None:
            found = self._graph.search(vector, count)
            pairs = zip(found.keys, found.distances, strict=True)
            return [(int(key), 1.0 - float(distance)) for key, distance in pairs]
        cosines = self._rows[: len(self._keys)] @ vector
        count = min(count, len(cosines))
        best = np.argpartition(cosines, -count)[-count:]
        ordered = best[np.argsort(-cosines[best], kind="stable")]
        return [(self._keys[place], float(cosines[place])) for place in ordered]

    def _grow_graph(self) -> None:
        """Move all into a graph; it stays one when entries leave."""
        # The embedder's library first: loaded after usearch it ends the process with a fault.
        import onnxruntime  # noqa: F401, PLC0415 -- see above
        from usearch.index import Index as Graph  # noqa: PLC0415 -- most scopes never need it

        graph = Graph(
            ndim=self._dimensions,
            metric="cos",
            dtype="i8",
            connectivity=_LINKS,
            expansion_add=_EXPANSION_ADD,
            expansion_search=_EXPANSION_SEARCH,
        )
        if self._keys:
            graph.add(np.array(self._keys, dtype=np.uint64), self._rows[: len(self._keys)])
        self._graph = graph
        self._rows = np.zeros((0, self._dimensions), dtype=np.float32)
        self._keys, self._places = [], {}
