"""Functions in processes of their own, to see whether a store that several processes use is one log to all of them.

`in_processes(place, work, arguments)` starts one process for each of *arguments*. When all of them are ready they begin
at the same moment: each opens the place and calls `await work(store, *arguments)`. What is sent is pickled: a place of
any class will do, also one that is defined in a test module, as long as its own fields can be pickled.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from .contract_kit import Place

__all__ = ("Work", "in_processes")

T = TypeVar("T")
Work: TypeAlias = Callable[..., Awaitable[T]]

PATIENCE: Final = 60.0
"""Seconds that a process has to begin, and to come to its end."""


async def in_processes(place: Place, work: Work[T], arguments: Iterable[Sequence[object]]) -> list[T]:
    """Let a function of a module work in several processes at once; return what it returned in each.

    Raises:
        AssertionError: it raised in one of them; the traceback is in the message.
    """
    orders = [_pickled((place, work, tuple(given))) for given in arguments]
    start = threading.Barrier(len(orders))
    outcomes: list[Any] = [None] * len(orders)

    async def one(index: int, order: bytes) -> None:
        outcomes[index] = await anyio.to_thread.run_sync(partial(_process, order, start), limiter=limiter)

    limiter = anyio.CapacityLimiter(len(orders))
    async with anyio.create_task_group() as group:
        for index, order in enumerate(orders):
            group.start_soon(one, index, order)
    for done, outcome in outcomes:
        assert done, outcome
    return [outcome for _, outcome in outcomes]


def _process(order: bytes, start: threading.Barrier) -> tuple[bool, Any]:
    """Run one process; return what it came to."""
    process = subprocess.Popen(  # noqa: S603 - it is this Python, and what it is to do comes from this process
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            process.stdin.write(len(order).to_bytes(8, "big") + order)
            process.stdin.flush()
            first = process.stdout.read(1)
            if first == b"!":
                with suppress(threading.BrokenBarrierError):
                    start.wait(PATIENCE)
                first = b""
            else:
                start.abort()
            said = first + process.communicate(b"!", PATIENCE)[0]
            return pickle.loads(said) if said else (False, f"the process ended with {process.wait()}")  # noqa: S301
        finally:
            process.kill()


class _Pickler(pickle.Pickler):
    """Notes of which modules the functions and classes are that it meets, and where those are."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.files: dict[str, str] = {}

    def reducer_override(self, obj: Any) -> Any:
        module = sys.modules.get(getattr(obj, "__module__", None) or "")
        if isinstance(obj, type) or callable(obj):
            path = getattr(module, "__file__", None)
            if module is not None and path is not None:
                self.files[module.__name__] = path
        return NotImplemented


def _pickled(value: object) -> bytes:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return pickle.dumps((pickler.files, file.getvalue()))


class _Unpickler(pickle.Unpickler):
    """Finds modules that have a name of their own, as pytest gives its test modules, by their files."""

    def __init__(self, files: dict[str, str], data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._files = files

    def find_class(self, module: str, name: str, /) -> Any:
        if module in self._files and (module == "__main__" or not _is_there(module)):
            _load(module, self._files[module])
        return super().find_class(module, name)


def _is_there(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def _load(name: str, path: str) -> None:
    spec = spec_from_file_location(f"{name}_of_another_process", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


# -- in the process


async def _perform(place: Place, work: Work[T], arguments: Sequence[object]) -> T:
    async with place.open() as store:
        return await work(store, *arguments)


def _main() -> None:
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed goes to standard error
    outcome: tuple[bool, object]
    try:
        files, order = pickle.loads(sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "big")))  # noqa: S301
        place, work, arguments = _Unpickler(files, order).load()
        said.write(b"!")
        said.flush()
        sys.stdin.buffer.read(1)
        outcome = True, anyio.run(_perform, place, work, arguments)
    except Exception:  # noqa: BLE001 - it is told to who started this process
        outcome = False, traceback.format_exc()
    said.write(pickle.dumps(outcome))
    said.close()


if __name__ == "__main__":
    _main()
