"""The processes that are measured: one for each package, so that none pays for another's imports and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.systems import PACKAGES, Package, missing

__all__ = ("Failed", "Fleet", "Kind", "Worker")


class Failed(Exception):
    """A task was not done; the reason is the message."""


class Worker:
    """A process that hosts one package's systems."""

    def __init__(self, package: Package, environment: Mapping[str, str], errors: Path) -> None:
        self.package = package
        self._errors = errors
        command = [sys.executable, "-m", "benchmarks.worker", package.name]
        with errors.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 - our own
                command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )

    def ready(self) -> float:
        """Wait until its package is imported; return how long that took.

        Raises:
            Failed: it cannot be.
        """
        return float(self._answer()["imported"])

    def ask(
        self,
        task: str,
        system: str = "",
        folder: Path | None = None,
        *,
        module: str = "benchmarks.tasks",
        limit: float = 300.0,
        **given: Any,
    ) -> Any:
        """Let it do a task within some seconds; return what came of it.

        Raises:
            Failed: it was not done.
        """
        said = {"task": task, "system": system, "folder": str(folder), "module": module, "limit": limit, "with": given}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._end()) from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._end())
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"][:300])
        return answer["done"]

    def _end(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return f"its process ended with {self._process.wait()}: {lines[-1][:200] if lines else 'it said nothing'}"

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Kind(NamedTuple):
    """A system, where it lives, and what can be asked of it."""

    name: str
    worker: Worker
    ways: Sequence[str]
    most: int
    quickly: int

    def ask(self, task: str, folder: Path, **given: Any) -> Any:
        """Let its worker do a task; see `Worker.ask`."""
        return self.worker.ask(task, self.name, folder, **given)


class Fleet:
    """Workers for packages, started together."""

    def __init__(self, packages: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.absent: dict[str, str] = {}
        """Packages that take no part, and why."""
        self.kinds: list[Kind] = []
        self.workers: dict[str, Worker] = {}
        self._packages = [package for package in PACKAGES if package.name in packages]
        self._environment = environment
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        started = []
        for package in self._packages:
            reason = missing(package)
            if reason is not None:
                self.absent[package.name] = reason
            else:
                started.append(self.start(package))
        for worker in started:
            try:
                worker.ready()
                systems = worker.ask("systems")
            except Failed as reason:
                self.absent[worker.package.name] = f"it cannot be used: {reason}"
                continue
            self.workers[worker.package.name] = worker
            self.kinds += [Kind(name, worker, **said) for name, said in systems.items()]
        return self

    def start(self, package: Package) -> Worker:
        """Start a worker that ends with the fleet, if not before."""
        worker = Worker(package, self._environment, self._folder / f"{package.name}.log")
        self._stack.callback(worker.close)
        return worker

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def kind(self, name: str) -> Kind:
        """Return a system that takes part."""
        return next(kind for kind in self.kinds if kind.name == name)
