"""How the entry points that `call` steps name are called, by language.

python: `package.module:function`, sync or async, imported in this process. A sync function runs in a
thread of its own; when its time is over the step fails at once and the thread is left to end by itself,
because a thread cannot be ended from outside.
javascript: an export of a module, run by `node` with JSON on its standard input and output.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from seedbed.crds.errors import InvalidError, RetryableError, TerminalError
from seedbed.crds.messages import VALUE_LIMIT

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
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind


class Adapter(Protocol):
    """Calls entry points of one language."""

    async def start(self) -> None:
        """Make sure it can work.

        Raises:
            AdapterStartError: with the reason why not.
        """

    async def call(self, entry: str, arguments: Mapping[str, Any], idempotency_key: str) -> Any:
        """Call an entry point; the answer is its output, a JSON value.

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
        self._functions: dict[str, Callable[..., Any]] = {}

    async def start(self) -> None:
        """Nothing can be missing: this process is Python."""

    async def call(self, entry: str, arguments: Mapping[str, Any], idempotency_key: str) -> Any:
        """Call a function with keyword arguments; `idempotency_key` too where it takes that name."""
        function = self._functions.get(entry)
        if function is None:
            function = self._functions[entry] = _find(entry)
        keywords = _bound(entry, function, arguments, idempotency_key)
        try:
            if inspect.iscoroutinefunction(function):
                output = await function(**keywords)
            else:
                output = await _in_thread(function, keywords)
        except (InvalidError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise EntryFailedError(type(error).__name__, str(error)) from error
        return _json(entry, output)


def _find(entry: str) -> Callable[..., Any]:
    module, _, name = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise InvalidError("entry", f"module {module!r} cannot be imported: {error}") from error
    if not callable(found):
        raise InvalidError("entry", f"module {module!r} has no function {name!r}")
    function: Callable[..., Any] = found
    return function


def _bound(
    entry: str, function: Callable[..., Any], arguments: Mapping[str, Any], idempotency_key: str
) -> dict[str, Any]:
    keywords = dict(arguments)
    try:
        signature = inspect.signature(function)
    except ValueError:  # built in without a signature: let it judge itself
        return keywords
    if "idempotency_key" in signature.parameters:
        keywords["idempotency_key"] = idempotency_key
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise InvalidError("args", f"{entry}: {error}") from error
    return keywords


async def _in_thread(function: Callable[..., Any], keywords: dict[str, Any]) -> Any:
    """Run in a daemon thread, so that one that never ends does not hold the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(output: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(output)
        else:
            done.set_exception(error)

    def body() -> None:
        output, failure = None, None
        try:
            output = function(**keywords)
        except BaseException as error:  # noqa: BLE001 -- handed over to the waiting task
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, output, failure)

    threading.Thread(target=body, name="seedbed-entry", daemon=True).start()
    return await done


def _json(entry: str, output: Any) -> Any:
    try:
        data = orjson.dumps(output)
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

    async def call(self, entry: str, arguments: Mapping[str, Any], idempotency_key: str) -> Any:
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
