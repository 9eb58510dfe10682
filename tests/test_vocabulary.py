"""Where a tokenizer's vocabulary is found, in which order, and what becomes of counting when there is none."""

import gzip
import hashlib
import importlib.util
import logging
import socket
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import requests
import tiktoken
import tiktoken.load
import tiktoken.registry

from turnlog import Budget, open_engine
from turnlog.engine import vocabulary
from turnlog.engine.vocabulary import DEFAULT, estimate, load, vocabulary_of

pytestmark = pytest.mark.anyio

TEXT = "Tokens are counted once, when an item is appended. 東京 🦊"
NAMES = ("o200k_base", "cl100k_base")
PACKAGE = Path(importlib.util.find_spec("bpe_openai").origin).parent


def published(name):
    """Return a vocabulary's file as it is published: the package has the very bytes."""
    return gzip.decompress((PACKAGE / "data" / f"{name}.tiktoken.gz").read_bytes())


def place_of(name, folder):
    """Return where tiktoken keeps a vocabulary's file in its cache."""
    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    return folder / hashlib.sha1(url.encode()).hexdigest()


def keep(name, folder, content=None):
    place_of(name, folder).write_bytes(published(name) if content is None else content)


@pytest.fixture
def package(monkeypatch):
    """The package of the `offline` extra is hidden by package("gone"), and is back by package("here")."""

    def change(state):
        if state == "gone":
            monkeypatch.setitem(sys.modules, "bpe_openai", None)
        else:
            monkeypatch.delitem(sys.modules, "bpe_openai")

    return change


@pytest.fixture
def proxy(monkeypatch):
    """What every HTTPS request of this process goes through: proxy(port)."""
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return lambda port: monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")


@pytest.fixture
def folder(monkeypatch, tmp_path, package, proxy):
    """A process that has counted nothing yet: no package, no network, an empty cache; return the cache's folder."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for module, name in ((vocabulary, "_loaded"), (vocabulary, "_downloads"), (tiktoken.registry, "ENCODINGS")):
        monkeypatch.setattr(module, name, {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    package("gone")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        proxy(unused.getsockname()[1])
    yield cache
    for thread in vocabulary._downloads.values():
        thread.join(30)


@contextmanager
def serving(talk):
    """Serve on this machine: talk(socket) with each connection; yield the port, and the list of connections."""
    talked = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            talked.append(self.request)
            talk(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], talked
        finally:
            server.shutdown()
            thread.join()


# -- the order


async def test_the_cache_comes_first(folder, package):
    keep(DEFAULT, folder)
    package("here")
    assert (await load()).source == "cache"


async def test_the_package_comes_second(folder, package):
    package("here")
    found = await load()
    assert (found.source, found.exact, found.name, repr(found)) == (
        "offline", True, DEFAULT, "<Vocabulary o200k_base from offline>",
    )  # fmt: skip


async def test_a_download_comes_third_and_is_kept(folder, monkeypatch):
    def answer(connection):
        connection.recv(65536)
        body = published(DEFAULT)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    asked = []

    def fetch(url):
        asked.append(url)
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"http://127.0.0.1:{port}/", timeout=30).content

    monkeypatch.setattr(tiktoken.load, "read_file", fetch)
    with serving(answer) as (port, _):
        found = await load()
    assert (found.source, found.exact) == ("download", True)
    assert asked == [vocabulary._URL.format(DEFAULT)]
    monkeypatch.setattr(vocabulary, "_loaded", {})
    again = await load()
    assert (again.source, again.count(TEXT), len(asked)) == ("cache", found.count(TEXT), 1)


async def test_an_estimate_comes_last_and_says_so_once(folder, caplog):
    with caplog.at_level(logging.DEBUG, "turnlog"):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(load)
        found = await load()
        async with open_engine(":memory:") as engine:
            c = await engine.create()
            await c.append(TEXT)
            window = await c.window(Budget(1000))
    assert (found.source, found.exact, found.count) == ("estimate", False, estimate)
    assert not window.tokens.measured
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "turnlog.vocabulary.missing vocabulary=o200k_base" in warnings[0].getMessage()
    assert 'pip install "turnlog[offline]", or set TIKTOKEN_CACHE_DIR' in warnings[0].getMessage()


@pytest.mark.parametrize("name", NAMES)
async def test_every_way_counts_alike(folder, package, monkeypatch, name):
    keep(name, folder)
    cached = await load(name)
    monkeypatch.setattr(vocabulary, "_loaded", {})
    place_of(name, folder).unlink()
    package("here")
    packaged = await load(name)
    assert (cached.source, packaged.source) == ("cache", "offline")
    assert cached.count(TEXT) == packaged.count(TEXT)


async def test_it_is_looked_for_once_whoever_asks(folder, package):
    package("here")
    found = []

    async def ask():
        found.append(await load())

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)
    assert len({id(one) for one in found}) == 1


async def test_other_folders_that_tiktoken_knows(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    keep(DEFAULT, other)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(other))
    assert (await load()).source == "cache"
    monkeypatch.delenv("DATA_GYM_CACHE_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "data-gym-cache").mkdir()
    keep("cl100k_base", tmp_path / "data-gym-cache")
    assert (await load("cl100k_base")).source == "cache"


async def test_a_cache_that_is_turned_off_is_not_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "data-gym-cache").mkdir()
    keep(DEFAULT, tmp_path / "data-gym-cache")
    monkeypatch.chdir(tmp_path / "data-gym-cache")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert (await load()).source == "estimate"


# -- what is broken


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", b"not base64! 1\n", b"\xff" * 1000, None],
    ids=["empty", "a page", "no base64", "no text", "cut short"],
)
async def test_a_broken_file_in_the_cache_is_passed_over(folder, package, content):
    keep(DEFAULT, folder, published(DEFAULT)[:-20] if content is None else content)
    package("here")
    assert (await load()).source == "offline"
    assert place_of(DEFAULT, folder).exists()


async def test_a_broken_file_and_nothing_else_is_an_estimate(folder, caplog):
    keep(DEFAULT, folder, b"broken")
    with caplog.at_level(logging.DEBUG, "turnlog"):
        assert (await load()).source == "estimate"
    (told,) = [record.getMessage() for record in caplog.records if "unusable" in record.getMessage()]
    assert told == "turnlog.vocabulary.unusable vocabulary=o200k_base source=cache error=ValueError"


async def test_a_folder_in_the_place_of_the_file(folder, package):
    place_of(DEFAULT, folder).mkdir()
    package("here")
    assert (await load()).source == "offline"


async def test_a_broken_package_is_passed_over(folder, monkeypatch, tmp_path):
    (tmp_path / "bpe_openai" / "data").mkdir(parents=True)
    (tmp_path / "bpe_openai" / "__init__.py").write_text("raise RuntimeError('it is not to be imported')")
    (tmp_path / "bpe_openai" / "data" / f"{DEFAULT}.tiktoken.gz").write_bytes(b"no gzip")
    monkeypatch.delitem(sys.modules, "bpe_openai")
    monkeypatch.syspath_prepend(tmp_path)
    assert (await load()).source == "estimate"


async def test_a_finder_that_fails_is_passed_over(folder, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "bpe_openai":
                raise OSError("the disk is gone")

    monkeypatch.delitem(sys.modules, "bpe_openai")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert (await load()).source == "estimate"


async def test_without_tiktoken_there_is_an_estimate(folder, package, monkeypatch):
    keep(DEFAULT, folder)
    package("here")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert (await load()).source == "estimate"


async def test_a_vocabulary_that_nobody_has(folder, package):
    package("here")
    for name in ("voyage3_base", "no_such_base", "../../../etc/passwd"):
        assert (await load(name)).source == "estimate"


# -- no network

REFUSALS = {
    "refuses": lambda connection: connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
    "hangs up": lambda connection: None,
    "talks nonsense": lambda connection: connection.sendall(b"\x00\xff" * 100 + b"\r\n\r\n"),
    "has no TLS": lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello"),
}


@pytest.mark.parametrize("talk", REFUSALS.values(), ids=REFUSALS)
async def test_a_proxy_that_leads_nowhere(folder, proxy, talk):
    with serving(talk) as (port, talked):
        proxy(port)
        assert (await load()).source == "estimate"
    assert talked


@contextmanager
def silence():
    """Serve silence for as long as this lasts; yield the port, and for each connection whether somebody gave up."""
    over, waited = threading.Event(), []
    with serving(lambda connection: waited.append(not over.wait(20))) as (port, talked):
        try:
            yield port, talked
        finally:
            over.set()
    assert not any(waited)


async def test_a_network_that_is_silent_is_waited_for_no_longer_than_its_time(folder, proxy, monkeypatch):
    """Nor does it hold up who needs what is here already: tiktoken keeps a lock while it downloads."""
    monkeypatch.setattr(vocabulary, "_PATIENCE", 0.2)
    keep("cl100k_base", folder)
    with silence() as (port, talked):
        proxy(port)
        assert (await load()).source == "estimate"
        assert (await load("cl100k_base")).source == "cache"
        assert (await load()).source == "estimate"
        while not talked:
            await anyio.sleep(0.01)
        assert len(talked) == 1


async def test_a_broken_file_is_not_downloaded_before_the_package_is_asked(folder, package, proxy):
    keep(DEFAULT, folder, b"broken")
    package("here")
    with silence() as (port, talked):
        proxy(port)
        assert (await load()).source == "offline"
    assert not talked


# -- when, and where


async def test_a_vocabulary_is_loaded_off_the_event_loop(folder, package, monkeypatch):
    threads = []

    def imported():
        threads.append(threading.current_thread())
        return tiktoken

    monkeypatch.setattr(vocabulary, "_tiktoken", imported)
    package("here")
    await load()
    package("gone")
    await load("cl100k_base")
    assert len(threads) == 2
    assert threading.main_thread() not in threads


LOOK = """
import sys
seen = []
def look(event, args):
    if event.startswith("socket.") or (event == "open" and "tiktoken" in str(args[0])):
        seen.append((event, args))
sys.addaudithook(look)
import turnlog
import turnlog.engine.intake, turnlog.engine.tokens, turnlog.engine.vocabulary
import turnlog.engine.window.choose, turnlog.engine.turns.plan
print(seen, [name for name in ("tiktoken", "bpe_openai", "requests") if name in sys.modules])
"""


def test_importing_looks_for_nothing():
    told = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[] []"


# -- names


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo-2024-04-09", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo-0613:acme::8abc", "cl100k_base"),
        ("openai/gpt-4", "cl100k_base"),
        ("openai.gpt-4", "cl100k_base"),
        ("openai.gpt-oss-120b", "o200k_base"),
        ("ft:gpt-4o-mini-2024-07-18:acme::8abc", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-5.5", "o200k_base"),
        ("o3", "o200k_base"),
        ("Qwen/Qwen3-32B", "o200k_base"),
        ("acme-7b-chat", "o200k_base"),
        ("ft:", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_names_of_models(model, name):
    assert vocabulary_of(model) == name


def test_models_that_tiktoken_knows_are_counted_as_it_counts():
    from tiktoken.model import MODEL_PREFIX_TO_ENCODING, MODEL_TO_ENCODING

    longer = {prefix + (":acme::8abc" if ":" in prefix else "2026"): prefix for prefix in MODEL_PREFIX_TO_ENCODING}
    known = MODEL_TO_ENCODING | {name: MODEL_PREFIX_TO_ENCODING[prefix] for name, prefix in longer.items()}
    chat = {model: name for model, name in known.items() if "davinci" not in model and "babbage" not in model}
    ours = {model: vocabulary_of(model) for model, name in chat.items() if name in NAMES}
    assert len(ours) > 20
    assert ours == {model: chat[model] for model in ours}
