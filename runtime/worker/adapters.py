"""How the entry points that `call` steps name are called, by language.

python: `package.module:function`, sync or async, imported in this process; one that yields gives its items
as they come, and their list in the end. A sync function runs in a
thread of its own; when its time is over the step fails at once and the thread is left to end by itself,
because a thread cannot be ended from outside.
javascript: an export of a module, run by `node` with JSON on its standard input and output.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import queue
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

import orjson

from seedbed.crds.errors import InvalidError, RetryableError, TerminalError
from seedbed.crds.messages import VALUE_LIMIT
from seedbed.crds.values import written
from seedbed.runtime.worker.limit import is_stopped

_SHAPES = 64
"""Sets of argument names that are remembered as fitting an entry point."""
_IDLE_SECONDS = 60.0
"""After this time a thread without a call ends."""

_OVER = object()
_TEXT_LIMIT = 16 * 1024
"""Characters of an error's own text that are told."""

Tell = Callable[[Any], Awaitable[None]]
"""Takes an item that an entry point has yielded."""
_Call = tuple[Callable[..., Any], dict[str, Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]

_NODE_PROGRAM = """
const [module, name] = process.argv.slice(1);
let text = '';
process.stdin.on('data', (part) => { text += part; });
process.stdin.on('end', async () => {
  try {
    const found = (await import(module))[name];
    if (typeof found !== 'function') throw new Error(`${module} exports no function ${name}`);
    const output = await found(JSON.parse(text));
    process.stdout.write(JSON.stringify(output === undefined ? null : output));
  } catch (error) {
    process.stderr.write(String(error && error.message || error));
    process.exitCode = 1;
  }
});
"""


class UnsupportedAdapterError(TerminalError):
    """There is no adapter of that name.

    Attributes:
        adapter: what was asked for.
    """

    code = "unsupported_adapter"

    def __init__(self, adapter: str) -> None:
        super().__init__(f"adapter {adapter!r} is not supported; there are python, javascript")
        self.adapter = adapter


class AdapterStartError(TerminalError):
    """An adapter cannot work on this machine."""

    code = "adapter_failed"


class EntryFailedError(RetryableError):
    """The entry point raised an error of its own.

    Attributes:
        kind: the error's type.
    """

    code = "entry_failed"

    def __init__(self, kind: str, message: str) -> None:
        # Names of files, for instance, may hold what no text on the wire can.
        text = message[:_TEXT_LIMIT].encode(errors="replace").decode()
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind


class Adapter(Protocol):
    """Calls entry points of one language."""

    async def start(self) -> None:
        """Make sure it can work.

        Raises:
            AdapterStartError: with the reason why not.
        """

    async def call(
        self,
        entry: str,
        arguments: Mapping[str, Any],
        idempotency_key: str,
        tell: Tell | None = None,
    ) -> Any:
        """Call an entry point; the answer is its output, a JSON value.

        Where it yields, `tell` is given each item, and the next one is not asked for before it returns;
        the output is the list of all.

        Raises:
            InvalidError: naming the entry or the argument that is wrong.
            EntryFailedError: the entry point failed.
        """


def adapter_named(name: str) -> Adapter:
    """The adapter of a language.

    Raises:
        UnsupportedAdapterError: where there is none.
    """
    adapters: dict[str, Callable[[], Adapter]] = {
        "python": PythonAdapter,
        "javascript": JavaScriptAdapter,
    }
    if name not in adapters:
        raise UnsupportedAdapterError(name)
    return adapters[name]()


class PythonAdapter:
    """Calls functions of importable modules."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._threads = _Threads()

    async def start(self) -> None:
        """Nothing can be missing: this process is Python."""

    async def call(
        self,
        entry: str,
        arguments: Mapping[str, Any],
        idempotency_key: str,
        tell: Tell | None = None,
    ) -> Any:
        """Call a function with keyword arguments; `idempotency_key` too where it takes that name."""
        found = self._entries.get(entry)
        if found is None:
            found = self._entries[entry] = _Entry(entry, _find(entry))
        keywords = found.bound(arguments, idempotency_key)
        try:
            if found.yields:
                output = await self._collected(found.function(**keywords), tell)
            elif found.is_async:
                output = await found.function(**keywords)
            else:
                output = await self._threads.call(found.function, keywords)
        except (InvalidError, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            if is_stopped():
                raise
            raise EntryFailedError("CancelledError", str(error)) from error
        except Exception as error:
            raise EntryFailedError(type(error).__name__, str(error)) from error
        except BaseException as error:
            # As from a thread: an exit of the function ends the step, not the worker around it.
            raise EntryFailedError("RuntimeError", repr(error)) from error
        return _json(entry, output)

    async def _collected(self, items: Any, tell: Tell | None) -> list[Any]:
        """All that a generator yields, as a list."""
        found: list[Any] = []
        while True:
            if inspect.isasyncgen(items):
                item = await anext(items, _OVER)
            else:
                item = await self._threads.call(_next, {"items": items})
            if item is _OVER:
                return found
            found.append(item)
            if tell is not None:
                await tell(item)


def _next(items: Iterator[Any]) -> Any:
    return next(items, _OVER)


def _find(entry: str) -> Callable[..., Any]:
    module, _, name = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, SystemExit) as error:
        why = error if isinstance(error, ImportError) else repr(error)
        raise InvalidError("entry", f"module {module!r} cannot be imported: {why}") from error
    if not callable(found):
        raise InvalidError("entry", f"module {module!r} has no function {name!r}")
    function: Callable[..., Any] = found
    return function


class _Entry:
    """A function that steps call, and what is known of how it is called."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self.yields = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self._signature: inspect.Signature | None
        try:
            self._signature = inspect.signature(function)
        except ValueError:  # built in without a signature: let it judge itself
            self._signature = None
        self._takes_key = (
            self._signature is not None and "idempotency_key" in self._signature.parameters
        )
        self._fitting: set[tuple[str, ...]] = set()

    def bound(self, arguments: Mapping[str, Any], idempotency_key: str) -> dict[str, Any]:
        """The arguments of a call.

        Raises:
            InvalidError: they do not fit the function.
        """
        keywords = dict(arguments)
        if self._signature is None:
            return keywords
        if self._takes_key:
            keywords["idempotency_key"] = idempotency_key
        names = tuple(keywords)
        if names not in self._fitting:
            try:
                self._signature.bind(**keywords)
            except TypeError as error:
                raise InvalidError("args", f"{self.name}: {error}") from error
            if len(self._fitting) < _SHAPES:
                self._fitting.add(names)
        return keywords


class _Threads:
    """Daemon threads, so that a function that never ends does not hold the process.

    A thread executes one call at a time; one that is free is used again, and one whose call has not
    ended in time is simply not free.
    """

    def __init__(self) -> None:
        self._free: list[queue.SimpleQueue[_Call]] = []

    async def call(self, function: Callable[..., Any], keywords: dict[str, Any]) -> Any:
        """Call a function in a thread of its own."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        if self._free:
            calls = self._free.pop()
        else:
            calls = queue.SimpleQueue()
            threading.Thread(
                target=self._serve, args=(calls,), name="seedbed-entry", daemon=True
            ).start()
        calls.put((function, keywords, loop, done))
        return await done

    def _serve(self, calls: queue.SimpleQueue[_Call]) -> None:
        """One thread's life; it ends when nothing was called for a while."""
        while True:
            try:
                function, keywords, loop, done = calls.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                try:
                    self._free.remove(calls)
                except ValueError:
                    continue  # it was taken at this very moment: a call comes
                return
            output, failure = None, None
            try:
                output = function(**keywords)
            except BaseException as error:  # noqa: BLE001 -- handed over to the waiting task
                # No future takes a StopIteration: it would never be done.
                plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
                failure = error if plain else RuntimeError(repr(error))
            del function, keywords
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, done, output, failure)
            self._free.append(calls)


def _settle(done: asyncio.Future[Any], output: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(output)
    else:
        done.set_exception(error)


def _json(entry: str, output: Any) -> Any:
    if output is None:
        return None
    try:
        data = written(output)
    except TypeError as error:
        raise InvalidError("output", f"{entry} must return JSON: {error}") from error
    if len(data) > VALUE_LIMIT:
        raise InvalidError("output", f"{entry} returned {len(data)} bytes; at most {VALUE_LIMIT}")
    return output


class JavaScriptAdapter:
    """Calls exported functions through `node`; each call is a process of its own, and can be ended."""

    def __init__(self) -> None:
        self._node = ""

    async def start(self) -> None:
        """Find `node`."""
        found = shutil.which("node")
        if found is None:
            raise AdapterStartError("the adapter javascript needs the program node, not found")
        self._node = found

    async def call(
        self,
        entry: str,
        arguments: Mapping[str, Any],
        idempotency_key: str,
        tell: Tell | None = None,  # noqa: ARG002  # a process tells its output when it ends
    ) -> Any:
        """Call an export with one object; the idempotency key is its property `idempotencyKey`."""
        module, _, name = entry.partition(":")
        process = await asyncio.create_subprocess_exec(
            self._node,
            "--input-type=module",
            "--eval",
            _NODE_PROGRAM,
            module,
            name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            sent = orjson.dumps({**arguments, "idempotencyKey": idempotency_key})
            out, complaint = await process.communicate(sent)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise EntryFailedError("node", complaint.decode(errors="replace").strip()[-1000:])
        try:
            return _json(entry, orjson.loads(out))
        except orjson.JSONDecodeError as error:
            raise InvalidError("output", f"{entry} must print nothing but JSON") from error
