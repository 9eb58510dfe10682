"""Processes that are killed at a system call, or traced: `victim.py` of the store tests, and what traces it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

VICTIM = Path(__file__).parents[1] / "stores" / "victim.py"
WRITES = "write,pwrite64,pwritev,fsync,fdatasync,ftruncate,fallocate,unlink,rename"


@pytest.fixture(scope="module")
def strace():
    """Return the system-call tracer; without it, or without the right to use it, skip."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed")
    with subprocess.Popen(["sleep", "60"]) as process:
        attached = subprocess.Popen([path, "-f", "-p", str(process.pid)], stderr=subprocess.PIPE, text=True)
        said = attached.stderr.readline()
        attached.terminate()
        attached.communicate()
        process.kill()
    if "attached" not in said:
        pytest.skip(f"strace may not be used here: {said.strip()}")
    return path


class Victim:
    """A process that forks one for each order."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(VICTIM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().split()

    def run(self, tracer, *, ready=lambda: None, **order):
        """Give an order, have the child traced, and return the lists that it said were done, and its exit code.

        *ready* is called before it begins.
        """
        self.tell(json.dumps({"what": "history", "pages": 0, "durability": "full", **order}, default=str))
        word, pid = self.hear()
        assert word == "ready"
        ready()
        with subprocess.Popen([*tracer, "-p", pid], stderr=subprocess.PIPE, text=True) as attached:
            assert "attached" in attached.stderr.readline()
            self.tell("go")
            done = []
            while (said := self.hear())[0] != "ended":
                done.append(said)
        return [int(number) for word, *number in done if word == "done" for number in number], int(said[1])

    def kill(self, strace, n, **order):
        """Give an order and kill the child at its n-th write or flush; return the lists that it said were done before,
        and whether it was killed.
        """
        kill = f"inject={WRITES}:signal=KILL:when={n}"
        tracer = [strace, "-f", "-o", "/dev/null", "-e", f"trace={WRITES}", "-e", kill]
        done, code = self.run(tracer, **order)
        assert code in (0, -signal.SIGKILL)
        return done, code != 0


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture(scope="module")
def victim():
    started = Victim()
    yield started
    started.process.stdin.close()
    started.process.wait()
    started.process.stdout.close()
